/** The same commit makes the same bytes, wherever it lies and whoever builds it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { installed } from '../lab/installed.ts';
import { buildPackages, top } from './built-packages.ts';

const run = promisify(execFile);
const scratch = join(top, '.cache/reproducible');

async function sums(paths: readonly string[]): Promise<[string, string][]> {
  const sum = async (path: string) =>
    createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
  return await Promise.all(paths.map(async (path) => [basename(path), await sum(path)] as [string, string]));
}

describe('packages of one commit', function () {
  this.timeout(300_000);
  const other = join(scratch, 'another clone of other name');

  before(async function () {
    if (!installed('dpkg-deb', 'rpmbuild', 'x86_64-linux-gnu-strip')) this.skip();
    await rm(scratch, { recursive: true, force: true });
    const list = await run('git', ['ls-files', '-z', '-co', '--exclude-standard'], { cwd: top });
    for (const path of list.stdout.split('\0')) {
      if (path === '' || !existsSync(join(top, path))) continue;
      await cp(join(top, path), join(other, path), { recursive: true });
    }
    await run('cp', ['-al', join(top, 'node_modules'), join(other, 'node_modules')]);
    await mkdir(join(other, '.cache'));
  });
  after(() => rm(scratch, { recursive: true, force: true }));

  it('are the same, from another directory, at another time, in another language and place', async () => {
    const { stdout } = await run('git', ['log', '-1', '--format=%ct'], { cwd: top });
    const here = await buildPackages(join(scratch, 'here'));
    const there = await buildPackages(join(scratch, 'there'), {
      from: other,
      env: {
        SOURCE_DATE_EPOCH: stdout.trim(),
        ...{ TZ: 'Pacific/Kiritimati', LC_ALL: 'C', HOSTNAME: 'elsewhere', HOME: scratch },
      },
    });
    assert.equal(here.length, 2);
    assert.deepEqual(await sums(there), await sums(here));
  });
});
