/**
 * The peers again, with the programs of a newer Debian than this machine's: QEMU 10 and libnbd 1.22 ask for
 * extended headers, which those of Debian 12 do not know. Only where the root of Debian 13 has been made
 * (scripts/in-debian.sh): that is some minutes of download.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

const top = join(import.meta.dirname, '../..');
const script = join(top, 'scripts/in-debian.sh');
const root = join(process.env['XNBD_DEBIAN_ROOTS'] ?? join(top, '.cache'), 'debian-13');

async function inside(...command: string[]): Promise<{ code: number; output: string }> {
  const child = spawn('sh', [script, '13', ...command], { stdio: ['ignore', 'pipe', 'pipe'], cwd: top });
  const closed = once(child, 'close') as Promise<[number | null]>;
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { code: (await closed)[0] ?? 1, output: stdout + stderr };
}

function whyNot(): string | undefined {
  if (/^VERSION_ID="?13"?$/m.test(readFileSync('/etc/os-release', 'utf8'))) return "these are this machine's";
  if (process.getuid?.() !== 0) return 'it takes root';
  return existsSync(root) ? undefined : `there is no ${root}; make it: sh scripts/in-debian.sh 13`;
}

describe('the peers of Debian 13', function () {
  this.timeout(600_000);

  before(function () {
    const reason = whyNot();
    if (reason === undefined) return;
    console.log(`      skipped: ${reason}`);
    this.skip();
  });

  it('are QEMU 10 and libnbd 1.22', async () => {
    const { output } = await inside('sh', '-c', 'qemu-io --version; nbdinfo --version');
    assert.match(output, /qemu-io version 10\./);
    assert.match(output, /libnbd 1\.22/);
  });

  for (const file of ['target', 'proxy']) {
    it(`pass what those of this machine pass: ${file}`, async () => {
      const { code, output } = await inside('mocha', join('test/interop', `${file}.test.ts`));
      assert.equal(code, 0, output);
      assert.match(output, /^ +\d+ passing/m);
      // All its programs are there.
      assert.doesNotMatch(output, /^ +\d+ pending/m, output);
    });
  }
});
