/** What scripts/install.sh puts where. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { lstat, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const top = join(import.meta.dirname, '../..');

describe('the installation', function () {
  this.timeout(60_000);
  let root: string;

  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'xs-'));
    await run('sh', [join(top, 'scripts/install.sh')], { env: { ...process.env, DESTDIR: root } });
  });
  after(() => rm(root, { recursive: true }));

  for (const program of ['xnbdd', 'xnbd-export', 'xnbd-gateway', 'xnbdctl', 'xnbd-hook']) {
    it(`has ${program} as a file in /usr/bin: AppArmor counts the path where a link leads to`, async () => {
      const file = await lstat(join(root, 'usr/bin', program));
      assert.ok(file.isFile());
      assert.equal(file.mode & 0o777, 0o755);
    });
  }
});
