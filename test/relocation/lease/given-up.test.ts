/**
 * A move that is given up, at bad moments: the origin gets its disk back, whole, and no acknowledged write is
 * lost.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { connectClient } from '../../lab/nbd/client.ts';
import type { ExportProcess } from '../../lab/nbd/export-process.ts';
import { useExports } from '../../lab/nbd/use-exports.ts';
import type { Wan } from '../../lab/net/wan.ts';

const SIZE = 2 * 1024 * 1024;
const BLOCK = 4096;

describe('a move that is given up', function () {
  this.timeout(60_000);
  const { path, start, line } = useExports();
  let origin: ExportProcess;
  let proxy: ExportProcess;
  let wan: Wan;

  beforeEach(async () => {
    await writeFile(path('a.img'), randomBytes(SIZE));
    origin = await start('target', 'a');
  });

  /** On this line the copy takes longer than a test. */
  async function arrive(rttMs: number): Promise<void> {
    wan = await line('a', { rttMs, rateMbit: 0.5 });
    await startProxy();
  }

  async function startProxy(): Promise<void> {
    proxy = await start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`]);
  }

  async function isUsableAgain(): Promise<void> {
    await origin.until(({ state, lease }) => state === 'serving' && lease === null);
    const source = await connectClient(origin.uri);
    await source.write(0, randomBytes(BLOCK));
    source.disconnect();
  }

  it('acknowledges no write while the disk is on its way back', async () => {
    await arrive(400);
    const guest = await connectClient(proxy.uri);
    await proxy.call('takeover');
    const abandoned = proxy.call('abandon');
    await proxy.status();
    const written = guest.write(0, randomBytes(BLOCK)).then(
      () => 'acknowledged',
      () => 'refused',
    );
    await abandoned;
    assert.equal(await written, 'refused');
    await isUsableAgain();
  });

  it('does not take the disk from a third host that reads from here', async () => {
    await arrive(1);
    await proxy.call('takeover');
    const next = await start('proxy', 'c', ['--origin', proxy.uri]);
    await assert.rejects(proxy.call('abandon'), /is lent: the next host .* reads from it/);
    await next.call('takeover');
    await assert.rejects(proxy.call('abandon'), /is fenced: the next host .* reads from it/);
    assert.equal((await origin.status()).state, 'fenced');
    assert.equal((await proxy.status()).state, 'fenced');
  });

  it('lifts the fence of a takeover that failed here', async () => {
    await arrive(1);
    await mkdir(path('b.img.xnbd/present.map.new'));
    await assert.rejects(proxy.call('takeover'));
    assert.equal((await proxy.status()).state, 'standby');
    assert.equal((await origin.status()).state, 'fenced');
    await rm(path('b.img.xnbd/present.map.new'), { recursive: true });
    await proxy.call('abandon');
    await isUsableAgain();
  });

  it('lifts the fence of a takeover in which this process was killed', async () => {
    await arrive(1);
    await mkdir(path('b.img.xnbd/present.map.new'));
    await assert.rejects(proxy.call('takeover'));
    await proxy.end('SIGKILL');
    await rm(path('b.img.xnbd/present.map.new'), { recursive: true });
    await startProxy();
    await proxy.call('abandon');
    await isUsableAgain();
    await assert.rejects(stat(path('b.img')), /ENOENT/);
  });

  it('keeps the disk while the origin, perhaps fenced, cannot be told', async () => {
    await arrive(1);
    await mkdir(path('b.img.xnbd/present.map.new'));
    await assert.rejects(proxy.call('takeover'));
    await proxy.end('SIGKILL');
    await wan.cut();
    await startProxy();
    await assert.rejects(proxy.call('abandon'), /its origin cannot be reached, and stays fenced until it is/);
    await wan.resume();
    await rm(path('b.img.xnbd/present.map.new'), { recursive: true });
    await proxy.until((status) => status.originReachable);
    await proxy.call('abandon');
    await isUsableAgain();
  });

  it('is not taken up again by a process that was killed after the origin had its disk back', async () => {
    await arrive(500);
    await proxy.call('takeover');
    proxy.call('abandon').catch(() => undefined);
    await origin.until((status) => status.state === 'serving');
    await proxy.end('SIGKILL');
    const source = await connectClient(origin.uri);
    await source.write(0, randomBytes(BLOCK));
    await startProxy();
    await origin.until((status) => status.lease !== null);
    // A fence would be asked for right behind the lease.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const newer = randomBytes(BLOCK);
    await source.write(0, newer);
    const guest = await connectClient(proxy.uri);
    assert.deepEqual(await guest.read(0, BLOCK), newer);
    await proxy.call('abandon');
    await isUsableAgain();
    source.disconnect();
  });
});
