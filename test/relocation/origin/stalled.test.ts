/**
 * A link that lets nothing pass although TCP stays up, and one that comes and goes: found out, shown, said
 * once, and survived.
 */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import type { ExportProcess } from '../../lab/nbd/export-process.ts';
import { useExports } from '../../lab/nbd/use-exports.ts';
import type { Wan } from '../../lab/net/wan.ts';

const BLOCK = 4096;
const SIZE = 4 * 1024 * 1024;

describe('a link to the origin', function () {
  this.timeout(90_000);
  const { path, start, line } = useExports();
  let content: Buffer;
  let wan: Wan;
  let origin: ExportProcess;
  let proxy: ExportProcess;

  beforeEach(async () => {
    content = bytesOf(21, SIZE);
    await writeFile(path('a.img'), content);
    origin = await startOrigin();
    wan = await line('a', { rttMs: 5, rateMbit: 10 });
    proxy = await start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`]);
  });

  const linesWith = (text: string) =>
    proxy
      .log()
      .split('\n')
      .filter((line) => line.includes(text));

  const startOrigin = (image = 'a.img', ...more: string[]) => start('target', 'a', more, image);

  const completed = () =>
    proxy.until((status) => status.state === 'serving' && status.origin === null, 60_000);

  it('that stalls is given up after 10 s of silence and dialled anew; nothing goes to the wrong place', async () => {
    const guest = await connectClient(proxy.uri);
    await guest.write(0, content.subarray(0, BLOCK));
    await proxy.until((status) => status.presentBytes > SIZE / 4);
    await wan.stall();
    const absent = SIZE - 64 * BLOCK;
    const late = guest.read(absent, 32 * BLOCK);
    const partial = guest.write(absent + 40 * BLOCK + 9, Buffer.from('!'));
    const { originUnreachableSince, originUnreachableReason } = await proxy.until(
      (status) => !status.originReachable,
      30_000,
    );
    assert.match(
      originUnreachableReason!,
      /nothing has come from it for \d+ s, and it does not answer a probe/,
    );
    const silence = Date.now() - Date.parse(originUnreachableSince!);
    assert.ok(silence > 8000 && silence < 40_000, `unreachable since ${silence} ms`);
    const from = performance.now();
    assertSameBytes(await guest.read(0, 16 * BLOCK), content.subarray(0, 16 * BLOCK));
    assert.ok(performance.now() - from < 3000, 'what is present does not wait');
    await wan.resume();
    assertSameBytes(await late, content.subarray(absent, absent + 32 * BLOCK));
    await partial;
    content.write('!', absent + 40 * BLOCK + 9);
    const status = await completed();
    assert.deepEqual([status.error, status.originUnreachableReason], [null, null]);
    assertSameBytes(await readFile(path('b.img')), content);
    assert.equal(linesWith('is unreachable').length, 1, proxy.log());
    assert.equal(linesWith('is reachable again').length, 1, proxy.log());
    guest.disconnect();
  });

  it('that is cut ten times in a row: every byte arrives, and the log is no flood', async () => {
    const guest = await connectClient(proxy.uri);
    await guest.write(0, content.subarray(0, BLOCK));
    const reads: Promise<void>[] = [];
    for (let round = 0; round < 10; round++) {
      await wan.cut();
      const at = ((round * 97) % 1000) * BLOCK;
      reads.push(
        guest.read(at, 8 * BLOCK).then((seen) => assertSameBytes(seen, content.subarray(at, at + 8 * BLOCK))),
      );
      await new Promise((resolve) => setTimeout(resolve, 50));
      await wan.resume();
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    await Promise.all(reads);
    await completed();
    assertSameBytes(await readFile(path('b.img')), content);
    assert.ok(linesWith('origin ').length <= 8, proxy.log());
    guest.disconnect();
  });

  it('to an origin that comes back as another disk: refused in one line, shown, tried again, never mixed', async () => {
    const guest = await connectClient(proxy.uri);
    await guest.write(0, content.subarray(0, BLOCK));
    await proxy.until((status) => status.presentBytes > SIZE / 8);
    await origin.end('SIGKILL');
    const kept = (await proxy.status()).presentBytes;
    for (const [name, bytes, refusal] of [
      ['other', SIZE, /another disk|has uuid/],
      ['larger', 2 * SIZE, /has uuid|another disk/],
    ] as const) {
      await writeFile(path(name), bytesOf(99, bytes));
      const other = await startOrigin(name);
      const refused = await proxy.until(
        ({ originUnreachableReason }) => refusal.test(originUnreachableReason ?? ''),
        20_000,
      );
      assert.equal(refused.originReachable, false);
      assert.match(refused.error!, refusal);
      await other.end();
    }
    assert.ok((await proxy.status()).presentBytes - kept <= 1024 * 1024, 'nothing more is taken');
    assert.ok(linesWith('refuses to lend').length <= 2, proxy.log());
    // The same disk again, as its own state directory tells.
    await startOrigin();
    const done = await completed();
    assert.equal(done.error, null);
    assertSameBytes(await readFile(path('b.img')), content);
    guest.disconnect();
  });
});
