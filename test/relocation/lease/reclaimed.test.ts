/**
 * An origin that has taken its disk back: whoever held the lease learns so, writes nothing more, and keeps
 * what it has for a look.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { stat, writeFile } from 'node:fs/promises';
import { openServedProxy } from '../../../src/relocation/served-proxy.ts';
import { readRecord } from '../../../src/store/records/record.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import type { ExportProcess } from '../../lab/nbd/export-process.ts';
import { useExports } from '../../lab/nbd/use-exports.ts';
import type { Wan } from '../../lab/net/wan.ts';

const SIZE = 2 * 1024 * 1024;
const BLOCK = 4096;

describe('a disk that its origin has taken back', function () {
  this.timeout(60_000);
  const { path, start, line } = useExports();
  let origin: ExportProcess;
  let proxy: ExportProcess;
  let wan: Wan;

  beforeEach(async () => {
    await writeFile(path('a.img'), randomBytes(SIZE));
    origin = await start('target', 'a');
  });

  async function arrive(rateMbit: number): Promise<void> {
    wan = await line('a', { rttMs: 1, rateMbit });
    proxy = await start('proxy', 'b', [
      '--origin',
      `nbd://${wan.address}/disk`,
      '--holder',
      'b:1',
      '--source-gone',
      'told',
    ]);
  }

  const record = async () => (await readRecord(path('b.img.xnbd')))!;

  for (const [when, written] of [
    ['while it is relocating', BLOCK],
    ['when it is complete and could not say so', SIZE],
  ] as const) {
    it(`${when}: its guest's writes fail from the moment it hears of it, for good`, async () => {
      await arrive(0.5);
      const guest = await connectClient(proxy.uri);
      await proxy.call('takeover');
      await wan.cut();
      await guest.write(0, randomBytes(written));
      await proxy.until(({ state }) => state === (written === SIZE ? 'serving' : 'relocating'));
      assert.equal((await origin.status()).movedTo, 'b:1');
      await origin.until((status) => status.lease !== null);
      let reclaimed = false;
      for (let tries = 0; !reclaimed && tries < 100; tries++) {
        reclaimed = await origin.call('reclaim').then(
          () => true,
          () => false,
        );
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      assert.ok(reclaimed);
      const source = await connectClient(origin.uri);
      await source.write(0, randomBytes(BLOCK));
      source.disconnect();

      await wan.resume();
      await proxy.until((status) => status.state === 'reclaimed');
      await assert.rejects(guest.write(0, randomBytes(BLOCK)));
      await assert.rejects(connectClient(proxy.uri), /is void: the disk was reclaimed by its origin/);
      while ((await record()).state !== 'reclaimed') await new Promise((resolve) => setTimeout(resolve, 20));
      assert.match(
        (await record()).reclaimed!,
        /reclaimed here by an administrator, .*xnbdctl delete disk --force$/,
      );
      assert.equal((await stat(path('b.img'))).size, SIZE, 'it is there for a look');
      await proxy.end();
      await assert.rejects(start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`]), /disk is void/);
      assert.equal((await origin.status()).state, 'serving');
    });
  }

  it('and that had moved on to a third host: that one hears of it from the second', async () => {
    await arrive(2);
    await proxy.call('takeover');
    const third = await start('proxy', 'c', ['--origin', proxy.uri, '--source-gone', 'told']);
    await third.call('takeover');
    const guest = await connectClient(third.uri);
    await guest.write(0, randomBytes(BLOCK));
    await proxy.end();
    await origin.until((status) => status.clients === 0);
    await origin.call('reclaim');
    await guest.write(BLOCK, randomBytes(BLOCK));
    // Nobody here can tell the third host. The second can, when it comes back.
    proxy = await start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`, '--source-gone', 'told']);
    await third.until((status) => status.state === 'reclaimed');
    await assert.rejects(guest.write(0, randomBytes(BLOCK)));
    const stateDir = path('c.img.xnbd');
    while ((await readRecord(stateDir))!.state !== 'reclaimed')
      await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal((await origin.status()).state, 'serving');
  });

  it('while its process was not running: the next one serves nobody', async () => {
    await arrive(0.5);
    const guest = await connectClient(proxy.uri);
    await guest.write(0, randomBytes(BLOCK));
    await proxy.end('SIGKILL');
    let reclaimed = false;
    for (const deadline = Date.now() + 20_000; !reclaimed && Date.now() < deadline; ) {
      reclaimed = await origin.call('reclaim').then(
        () => true,
        () => false,
      );
      if (!reclaimed) await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.ok(reclaimed);
    proxy = await start('proxy', 'b', ['--origin', `nbd://${wan.address}/disk`, '--source-gone', 'told']);
    await proxy.until((status) => status.state === 'reclaimed');
    while ((await record()).state !== 'reclaimed') await new Promise((resolve) => setTimeout(resolve, 20));
    await assert.rejects(connectClient(proxy.uri), /is void/);
  });

  it('after a restart, when it hears of it before anybody listens: it is told all the same', async () => {
    await arrive(10);
    await proxy.call('takeover');
    await proxy.end();
    await origin.until((status) => status.clients === 0);
    await origin.call('reclaim');
    const served = await openServedProxy({
      name: 'disk',
      image: path('b.img'),
      origin: `nbd://${wan.address}/disk`,
      stateDir: path('b.img.xnbd'),
    });
    try {
      while (served.relocation.error === null) await new Promise((resolve) => setTimeout(resolve, 5));
      const late = new Promise((resolve) => setTimeout(resolve, 2000, 'not told'));
      assert.equal(await Promise.race([served.relocation.reclaimed.promise, late]), null);
    } finally {
      await served.close();
    }
  });

  it('in standby, when a guest was started anew at the origin: it takes nothing over, and is given up', async () => {
    await origin.call('new-guest');
    await arrive(10);
    const guest = await connectClient(proxy.uri);
    await wan.cut();
    await origin.call('new-guest');
    await wan.resume();
    await assert.rejects(guest.write(0, randomBytes(BLOCK)));
    await proxy.until(({ error }) => /has had a guest started on it here since/.test(error ?? ''));
    await assert.rejects(proxy.call('takeover'));
    assert.equal((await origin.status()).state, 'serving');
    await proxy.call('abandon');
    await assert.rejects(stat(path('b.img')), /ENOENT/);
  });

  it('keeps its origin, every block here, while the guest that is awaited may never come', async () => {
    await arrive(200);
    const hypervisor = await connectClient(proxy.uri);
    await hypervisor.read(0, 512);
    await origin.call('source-gone');
    await proxy.until((status) => status.presentBytes === SIZE);
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.deepEqual([(await proxy.status()).state, (await origin.status()).state], ['relocating', 'fenced']);
    hypervisor.disconnect();
    await proxy.call('abandon');
    await origin.until((status) => status.state === 'serving' && status.lease === null);
  });

  it('lets its origin go with the first write of the guest', async () => {
    await arrive(200);
    const guest = await connectClient(proxy.uri);
    await guest.read(0, 512);
    await origin.call('source-gone');
    await proxy.until((status) => status.presentBytes === SIZE);
    assert.equal((await proxy.status()).state, 'relocating');
    await guest.write(0, randomBytes(BLOCK));
    await proxy.until((status) => status.state === 'serving' && status.origin === null);
    assert.equal((await origin.status()).state, 'retired');
  });
});
