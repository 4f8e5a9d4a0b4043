/**
 * A disk that its last block reaches while the next host fences it (C from B from A): the record may lose
 * neither.
 */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { openServedProxy } from '../../../src/relocation/served-proxy.ts';
import { readRecord } from '../../../src/store/records/record.ts';
import { startSlowOrigin } from '../../lab/nbd/slow-origin.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

/** So that the change after them is still waiting when the disk is complete. */
const CHANGES_BEFORE = 200;

describe('a disk that becomes complete while it is fenced', function () {
  this.timeout(60_000);

  for (const [from, to] of [
    ['relocating', 'fenced'],
    ['fenced', 'serving'],
  ] as const) {
    it(`is complete and ${to} on disk, from ${from}`, async () => {
      const directory = await temporaryDirectory();
      const content = randomBytes(64 * 1024);
      const origin = await startSlowOrigin({ directory: directory.path, content });
      // What the guest writes will be all that arrives.
      origin.disk.failWith = () => 5;
      const stateDir = join(directory.path, 'state');
      const image = join(directory.path, 'b.img');
      const served = await openServedProxy({ name: 'disk', image, origin: origin.uri, stateDir });
      try {
        await served.relocation.takeOver('the test');
        const { keeper } = served;
        const lease = randomUUID();
        if (from === 'fenced') await keeper.update({ state: 'fenced', lease });
        for (let before = 0; before < CHANGES_BEFORE; before++) void keeper.update({});
        const changed =
          to === 'fenced'
            ? keeper.update({ state: 'fenced', lease })
            : keeper.update(({ complete }) => ({
                state: complete ? 'serving' : served.baseState(),
                lease: null,
              }));
        const { promise: written, resolve } = Promise.withResolvers<number>();
        served.disk.write(content, 0, false, { complete: resolve });
        assert.equal(await written, 0);
        await changed;
        while (served.relocation.disk.phase !== 'complete')
          await new Promise((again) => setTimeout(again, 5));
        const record = await readRecord(stateDir);
        assert.deepEqual([record?.complete, record?.state], [true, to]);
      } finally {
        await served.close();
        await origin.stop();
        await directory.remove();
      }
    });
  }
});
