/** The lock of a state directory, while the directory comes and goes: it is never had by two at once. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lockState, removeStateDirectory } from '../../../src/store/records/state-lock.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

describe('the lock of a state directory', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  it('is had by one at a time, however often the directory is removed and made meanwhile', async () => {
    const stateDir = join(directory.path, 'state');
    let owners = 0;
    let had = 0;
    let refused = 0;
    const own = async (): Promise<void> => {
      for (let turn = 0; turn < 60; turn++) {
        const lock = await lockState(stateDir).catch((error: unknown) => {
          assert.match((error as Error).message, /is in use by another xnbd-export/);
          return null;
        });
        if (lock === null) {
          refused++;
          await new Promise((resolve) => setImmediate(resolve));
          continue;
        }
        owners++;
        had++;
        assert.equal(owners, 1, 'two have the lock');
        await writeFile(join(stateDir, 'export.json'), '{}');
        await new Promise((resolve) => setImmediate(resolve));
        assert.ok(existsSync(join(stateDir, 'export.json')), 'what an owner has made stays');
        // The next one may have it as soon as the file is gone, which is before the removal ends.
        owners--;
        await removeStateDirectory(stateDir);
        await lock.release();
      }
    };
    await Promise.all(Array.from({ length: 8 }, own));
    assert.ok(had > 10 && refused > 10, `${had} had it, ${refused} did not: the test would prove little`);
    assert.deepEqual(readdirSync(directory.path), []);
  });
});
