import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const demo = new URL('../../demo/demo.ts', import.meta.url).pathname;

describe('npm run demo', function () {
  this.timeout(120_000);
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'demo-test-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  it('moves a small disk over a quick link, proves it, and leaves nothing behind', async () => {
    const args = ['--size', '32', '--rtt', '4', '--rate', '200'];
    const { stdout } = await run(process.execPath, [demo, ...args], { env: { ...process.env, TMPDIR: dir } });
    assert.match(stdout, /B has what the guest wrote: 8192 of 8192 blocks/);
    assert.match(stdout, /A has what the guest left: 8192 of 8192 blocks/);
    assert.match(stdout, /cold reads.*p50/);
    assert.deepEqual(await readdir(dir), []);
  });

  it('says what may be written', async () => {
    await assert.rejects(
      run(process.execPath, [demo, '--rate', 'fast']),
      /--rate fast: it is a number from 1 to 10000\nusage/,
    );
  });
});
