/** An origin that has lost its fence: an older copy of its record was put back, or an administrator was at it. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { Errno } from '../../../src/nbd/constants.ts';
import { readRecord, writeRecord } from '../../../src/store/records/record.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { useExports } from '../../lab/nbd/use-exports.ts';

const BLOCK = 4096;
const SIZE = 4 * 1024 * 1024;

describe('an origin that comes back without its fence', function () {
  this.timeout(90_000);
  const { path, start, line } = useExports();

  it('is fenced again before anything is read from it, and that is said', async () => {
    const content = bytesOf(33, SIZE);
    await writeFile(path('a.img'), content);
    const before = await start('target', 'a');
    const wan = await line('a', { rttMs: 5, rateMbit: 8 });
    const proxy = await start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`]);
    const guest = await connectClient(proxy.uri);
    await guest.write(0, content.subarray(0, BLOCK));
    await before.until((status) => status.state === 'fenced');
    await before.end('SIGKILL');
    const stateDir = `${path('a.img')}.xnbd`;
    const record = (await readRecord(stateDir))!;
    await writeRecord(stateDir, { ...record, state: 'serving', lease: null, movedTo: null });

    const origin = await start('target', 'a');
    await origin.until((status) => status.state === 'fenced');
    const local = await connectClient(origin.uri);
    await assert.rejects(local.write(0, Buffer.alloc(BLOCK)), { errno: Errno.EPERM });
    await proxy.until((status) => status.state === 'serving' && status.origin === null, 60_000);
    assertSameBytes(await guest.read(0, SIZE), content);
    assert.match(proxy.log(), /was not fenced any more: it is fenced again before it is read/);
  });
});
