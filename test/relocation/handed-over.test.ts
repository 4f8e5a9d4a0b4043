/**
 * The process of a proxy, or of its origin, is replaced in the middle of a relocation: the lease, the fence and
 * what waits stay, and no client notices more than a wait.
 */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectControl } from '../../src/control/client.ts';
import { bytesOf } from '../lab/model/content.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { type Client, connectClient } from '../lab/nbd/client.ts';
import type { ExportProcess } from '../lab/nbd/export-process.ts';
import { useExports } from '../lab/nbd/use-exports.ts';
import type { Wan } from '../lab/net/wan.ts';

const BLOCK = 4096;
const SIZE = 8 * 1024 * 1024;

describe('a relocation whose processes are replaced', function () {
  this.timeout(120_000);
  const { path, start, line } = useExports();
  let content: Buffer;
  let origin: ExportProcess;
  let wan: Wan;
  const watched: (() => void)[] = [];

  beforeEach(async () => {
    content = bytesOf(3, SIZE);
    await writeFile(path('a.img'), content);
    origin = await start('target', 'a');
    wan = await line('a', { rttMs: 10, rateMbit: 20 });
  });
  afterEach(() => {
    for (const end of watched.splice(0)) end();
  });

  const startProxy = (...more: string[]) =>
    start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`, ...more]);
  const completed = (proxy: ExportProcess) =>
    proxy.until((status) => status.state === 'serving' && status.origin === null, 60_000);
  async function write(guest: Client, offset: number, data: Buffer): Promise<void> {
    await guest.write(offset, data);
    data.copy(content, offset);
  }

  /** Every state that an export is in from now on. */
  async function statesOf(each: ExportProcess): Promise<Set<string>> {
    const states = new Set<string>();
    const client = await connectControl(`${each.socket}.ctl`, ({ state }) => states.add(state));
    await client.watch();
    watched.push(() => client.close());
    return states;
  }

  it('relocating: the proxy goes on where it was, again and again, under a guest that writes', async () => {
    const proxy = await startProxy();
    const guest = await connectClient(proxy.uri);
    await write(guest, SIZE - 5 * BLOCK, bytesOf(4, BLOCK));
    const states = await statesOf(origin);
    let longest = 0;
    for (let times = 0; times < 5; times++) {
      const before = (await proxy.status()).presentBytes;
      let restarting = true;
      const restarted = proxy.restart().finally(() => (restarting = false));
      for (let at = 0; restarting; at++) {
        const offset = ((at * 37 + times * 11) % (SIZE / BLOCK)) * BLOCK;
        const began = performance.now();
        if (at % 2 === 0) await write(guest, offset + 512, bytesOf(at + times, BLOCK / 2));
        else assertSameBytes(await guest.read(offset, 2048), content.subarray(offset, offset + 2048));
        longest = Math.max(longest, performance.now() - began);
      }
      await restarted;
      const after = await proxy.status();
      assert.ok(after.presentBytes >= before, `${after.presentBytes} bytes are present, before ${before}`);
    }
    console.log(`      longest wait of a request: ${longest.toFixed(0)} ms`);
    await completed(proxy);
    assert.deepEqual(
      [...states].filter((state) => state !== 'fenced' && state !== 'retired'),
      [],
    );
    assertSameBytes(await guest.read(0, SIZE), content);
    guest.disconnect();
    await sleep(50);
    assertSameBytes(await readFile(path('b.img')), content);
  });

  it('in standby: the origin stays lent without a gap, and its word that the guest is gone is heard', async () => {
    const proxy = await startProxy();
    const source = await connectClient(origin.uri);
    const guest = await connectClient(proxy.uri);
    const states = await statesOf(origin);
    for (let times = 0; times < 3; times++) {
      await write(source, times * BLOCK, bytesOf(times, BLOCK));
      await proxy.restart();
      assert.equal((await proxy.status()).state, 'standby');
      assertSameBytes(
        await guest.read(times * BLOCK, BLOCK),
        content.subarray(times * BLOCK, (times + 1) * BLOCK),
      );
    }
    await proxy.until(({ originReachable }) => originReachable);
    assert.deepEqual([...states], ['lent']);
    source.disconnect();
    await completed(proxy);
    assertSameBytes(await guest.read(0, SIZE), content);
    guest.disconnect();
  });

  it('in standby: the move can still be given up after a restart, for nothing was written', async () => {
    const proxy = await startProxy();
    await proxy.restart();
    await proxy.call('takeover');
    await proxy.restart();
    assert.equal((await proxy.status()).state, 'relocating');
    await proxy.call('abandon');
    await origin.until(({ state }) => state === 'serving');
  });

  it('a read that waits for an origin that is away waits on in the new process', async () => {
    const proxy = await startProxy('--takeover', 'now');
    const guest = await connectClient(proxy.uri);
    await wan.cut();
    await proxy.until(({ originReachable }) => !originReachable);
    const offset = SIZE - 16 * BLOCK;
    const reading = guest.read(offset, 16 * BLOCK);
    await proxy.until(({ requestsWaiting }) => requestsWaiting === 1);
    await proxy.restart();
    await proxy.until(({ requestsWaiting }) => requestsWaiting === 1);
    await write(guest, 0, bytesOf(9, BLOCK));
    await wan.resume();
    assertSameBytes(await reading, content.subarray(offset, offset + 16 * BLOCK));
    await completed(proxy);
    guest.disconnect();
  });

  it('a write that waits for an origin that is away is not lost: the old process goes on with it', async () => {
    const proxy = await startProxy('--takeover', 'now');
    const guest = await connectClient(proxy.uri);
    await wan.cut();
    await proxy.until(({ originReachable }) => !originReachable);
    const offset = SIZE - 16 * BLOCK + 512;
    const writing = write(guest, offset, bytesOf(9, 512));
    const reading = guest.read(SIZE - 8 * BLOCK, BLOCK);
    await proxy.until(({ requestsWaiting }) => requestsWaiting === 2);
    const { pid } = await proxy.status();
    await assert.rejects(proxy.restart(), /disk has requests that do not end: ask again/);
    assert.equal((await proxy.status()).pid, pid);
    await wan.resume();
    await writing;
    assertSameBytes(await reading, content.subarray(SIZE - 8 * BLOCK, SIZE - 7 * BLOCK));
    await proxy.restart();
    assertSameBytes(await guest.read(offset, 512), bytesOf(9, 512));
    guest.disconnect();
  });

  it('the origin: lent, fenced and while it is read, its proxy keeps its link and its lease', async () => {
    const proxy = await startProxy('--set', 'copy-rate=1M');
    const source = await connectClient(origin.uri);
    const guest = await connectClient(proxy.uri);
    const reached = await statesOf(proxy);
    await origin.restart();
    assert.equal((await origin.status()).state, 'lent');
    await write(source, 0, bytesOf(7, BLOCK));
    assertSameBytes(await guest.read(0, BLOCK), content.subarray(0, BLOCK));
    await write(guest, BLOCK, bytesOf(8, BLOCK));
    assert.equal((await origin.status()).state, 'fenced');
    for (let times = 0; times < 3; times++) {
      await origin.restart();
      assert.equal((await origin.status()).state, 'fenced');
      await assert.rejects(source.write(0, bytesOf(1, BLOCK)), /EPERM/);
      assertSameBytes(
        await guest.read(SIZE - (times + 1) * BLOCK, BLOCK),
        content.subarray(SIZE - (times + 1) * BLOCK, SIZE - times * BLOCK || SIZE),
      );
    }
    assert.doesNotMatch(proxy.log(), /origin .*(lost|unreachable|cannot be reached|closed)/i);
    assert.ok(!reached.has('reclaimed'));
    source.connection.destroy();
    const control = await connectControl(`${proxy.socket}.ctl`);
    await control.call('set', 5000, { key: 'copy-rate', value: 'none' });
    control.close();
    await completed(proxy);
    assertSameBytes(await guest.read(0, SIZE), content);
    guest.disconnect();
  });

  it('both at once', async () => {
    const proxy = await startProxy();
    const guest = await connectClient(proxy.uri);
    await write(guest, 0, bytesOf(8, BLOCK));
    for (let times = 0; times < 3; times++) await Promise.all([origin.restart(), proxy.restart()]);
    await completed(proxy);
    assertSameBytes(await guest.read(0, SIZE), content);
    guest.disconnect();
  });
});
