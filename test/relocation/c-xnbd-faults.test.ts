/**
 * The faults 1 to 6 that were found in the C xNBD 0.4.1, each as the story in which it showed. (Each is
 * tested elsewhere, too, in more ways: docs/safety.md says where.)
 */
import assert from 'node:assert/strict';
import { copyFile, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { bytesOf } from '../lab/model/content.ts';
import { Random } from '../lab/model/random.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { type Client, connectClient } from '../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { type SlowOrigin, startSlowOrigin } from '../lab/nbd/slow-origin.ts';
import { startWan, type Wan } from '../lab/net/wan.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { waitFor } from '../lab/wait-for.ts';

const BLOCK = 4096;
const BLOCKS = 512;
const RTT_MS = 50;

describe('faults of the C xNBD that are not here', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let slow: SlowOrigin | null;
  let wan: Wan | null;
  const started: ExportProcess[] = [];
  const clients: Client[] = [];

  beforeEach(async () => {
    directory = await temporaryDirectory();
    content = bytesOf(1, BLOCKS * BLOCK);
    slow = null;
    wan = null;
  });

  afterEach(async () => {
    for (const client of clients.splice(0)) client.connection.destroy();
    for (const each of started.splice(0).reverse()) await each.end('SIGKILL');
    await slow?.stop();
    await wan?.stop();
    await directory.remove();
  });

  const path = (name: string) => join(directory.path, name);

  async function start(kind: 'target' | 'proxy', name: string, ...args: string[]): Promise<ExportProcess> {
    const made = await startExport(kind, 'disk', path(name), ['--image', path(`${name}.img`), ...args]);
    started.push(made);
    return made;
  }

  async function connect(to: ExportProcess): Promise<Client> {
    const client = await connectClient(to.uri);
    clients.push(client);
    return client;
  }

  /** An origin whose answers are held back, and a proxy that has taken over from it. */
  async function heldProxy(): Promise<ExportProcess> {
    slow = await startSlowOrigin({ directory: directory.path, content, tellsHoles: false });
    const proxy = await start('proxy', 'b', '--origin', slow.uri);
    slow.disk.hold('reads');
    await proxy.call('takeover');
    return proxy;
  }

  const completed = (proxy: ExportProcess) =>
    proxy.until((status) => status.state === 'serving' && status.origin === null, 40_000);

  it('1: kill -9 during a fetch, and the block is zeros after the restart', async () => {
    let proxy = await heldProxy();
    const guest = await connect(proxy);
    const lost = guest.read(100 * BLOCK, 8 * BLOCK).catch(() => 'lost');
    await waitFor('that read at the origin', () =>
      slow!.disk.reads.some(({ offset }) => offset === 100 * BLOCK),
    );
    await proxy.end('SIGKILL');
    assert.equal(await lost, 'lost');
    slow!.disk.release();
    proxy = await start('proxy', 'b', '--origin', slow!.uri);
    const again = await connect(proxy);
    assertSameBytes(await again.read(100 * BLOCK, 8 * BLOCK), content.subarray(100 * BLOCK, 108 * BLOCK));
    await completed(proxy);
    assertSameBytes(await readFile(path('b.img')), content);
  });

  it('2: answers of the origin in another order, and the copy is wrong', async () => {
    const proxy = await heldProxy();
    const guest = await connect(proxy);
    const blocks = Array.from({ length: 64 }, (_, index) => index * 8);
    const reads = blocks.map((block) => guest.read(block * BLOCK, BLOCK));
    // A few of them are in what the background copy has asked for.
    await waitFor('50 reads at the origin', () => slow!.disk.held >= 50);
    slow!.disk.release(new Random(5).shuffle);
    for (const [index, block] of blocks.entries())
      assertSameBytes(await reads[index]!, content.subarray(block * BLOCK, (block + 1) * BLOCK));
    await completed(proxy);
    assertSameBytes(await readFile(path('b.img')), content);
  });

  it('3: a read over 32 and more runs of absent blocks, and the proxy is gone', async () => {
    const proxy = await heldProxy();
    const guest = await connect(proxy);
    for (let block = 0; block < BLOCKS; block += 2) {
      bytesOf(block, BLOCK).copy(content, block * BLOCK);
      await guest.write(block * BLOCK, content.subarray(block * BLOCK, (block + 1) * BLOCK));
    }
    const read = guest.read(0, BLOCKS * BLOCK);
    await waitFor('200 reads at the origin', () => slow!.disk.held >= 200);
    slow!.disk.release();
    assertSameBytes(await read, content);
    assert.equal(proxy.child.exitCode, null);
  });

  it('4: the origin dies, every request hangs, and a person has to connect again', async () => {
    await writeFile(path('a.img'), content);
    const origin = await start('target', 'a');
    wan = await startWan({ to: path('a'), rttMs: 5, rateMbit: 4 });
    const proxy = await start('proxy', 'b', '--origin', `nbd://${wan.address}/disk`, '--takeover', 'now');
    const guest = await connect(proxy);
    assertSameBytes(await guest.read(BLOCK, BLOCK), content.subarray(BLOCK, 2 * BLOCK));
    await origin.end('SIGKILL');
    await proxy.until((status) => !status.originReachable);
    const cached = guest.read(BLOCK, BLOCK);
    const wrote = guest.write(2 * BLOCK, content.subarray(2 * BLOCK, 3 * BLOCK));
    assert.notEqual(await Promise.race([Promise.all([cached, wrote]), afterMs(5000)]), 'late');
    const absent = guest.read((BLOCKS - 8) * BLOCK, BLOCK);
    await start('target', 'a');
    assertSameBytes(await absent, content.subarray((BLOCKS - 8) * BLOCK, (BLOCKS - 7) * BLOCK));
    assertSameBytes(await cached, content.subarray(BLOCK, 2 * BLOCK));
  });

  it('5: a cached read waits while another client misses, and while the copy fills the line', async () => {
    content = bytesOf(2, 16 * 1024 * 1024);
    await writeFile(path('a.img'), content);
    await start('target', 'a');
    wan = await startWan({ to: path('a'), rttMs: RTT_MS, rateMbit: 20 });
    const proxy = await start('proxy', 'b', '--origin', `nbd://${wan.address}/disk`, '--takeover', 'now');
    const [guest, other] = [await connect(proxy), await connect(proxy)];
    await guest.read(0, BLOCK);
    let missing = true;
    const misses = (async () => {
      for (let at = content.length - BLOCK; missing; at -= 16 * BLOCK) await other.read(at, BLOCK);
    })();
    const times: number[] = [];
    for (let count = 0; count < 100; count++) {
      const began = performance.now();
      await guest.read(0, BLOCK);
      times.push(performance.now() - began);
    }
    missing = false;
    await misses;
    assert.ok((await proxy.status()).presentBytes < content.length, 'the copy is still under way');
    const median = times.sort((one, two) => one - two)[50]!;
    assert.ok(
      median < RTT_MS / 2,
      `a cached read takes ${median.toFixed(1)} ms, the round trip is ${RTT_MS} ms`,
    );
  });

  it('6: any file of the right length passes for the image', async () => {
    const proxy = await heldProxy();
    const guest = await connect(proxy);
    await guest.write(0, content.subarray(0, BLOCK));
    await proxy.end();
    await rename(path('b.img'), path('kept.img'));
    await copyFile(path('kept.img'), path('b.img'));
    await assert.rejects(start('proxy', 'b', '--origin', slow!.uri), /map of another disk: its inode is/);
    await rename(path('kept.img'), path('b.img'));
    slow!.disk.release();
    await completed(await start('proxy', 'b', '--origin', slow!.uri));
    assertSameBytes(await readFile(path('b.img')), content);
  });
});

function afterMs(ms: number): Promise<string> {
  return new Promise((resolve) => setTimeout(resolve, ms, 'late').unref());
}
