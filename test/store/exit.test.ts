import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const syscalls = new URL('../../src/system/syscalls.ts', import.meta.url).pathname;

describe('exitNow', () => {
  it('ends the process while a thread of the pool is in a call that does not return', async () => {
    const scratch = await temporaryDirectory();
    try {
      const fifo = join(scratch.path, 'fifo');
      execFileSync('mkfifo', [fifo]);
      // Nobody ever writes to it, so it is never open.
      const program = `import { exitNow } from '${syscalls}'; import { open } from 'node:fs';
        open('${fifo}', 'r', () => undefined);
        setTimeout(() => { console.error('the last word'); exitNow(3); }, 200);`;
      const run = spawnSync(process.execPath, ['--input-type=module-typescript', '-e', program], {
        encoding: 'utf8',
        timeout: 20_000,
        killSignal: 'SIGKILL',
      });
      assert.deepEqual([run.status, run.signal], [3, null]);
      assert.equal(run.stderr, 'the last word\n');
    } finally {
      await scratch.remove();
    }
  });
});
