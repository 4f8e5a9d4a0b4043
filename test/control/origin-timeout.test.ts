/**
 * origin-timeout: a request that has waited too long gets EIO, it alone; what comes for it later touches
 * nothing; the rest goes on.
 */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectControl } from '../../src/control/client.ts';
import { Errno } from '../../src/nbd/constants.ts';
import { openServedProxy, type ServedProxy } from '../../src/relocation/served-proxy.ts';
import type { Completion } from '../../src/store/completion.ts';
import { bytesOf } from '../lab/model/content.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { type Client, connectClient, NbdError } from '../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { type SlowOrigin, startSlowOrigin } from '../lab/nbd/slow-origin.ts';
import { startWan, type Wan } from '../lab/net/wan.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { waitFor } from '../lab/wait-for.ts';

const BLOCK = 4096;
const isEio = (error: unknown) => error instanceof NbdError && error.errno === Errno.EIO;

describe('origin-timeout', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  const path = (name: string) => join(directory.path, name);

  beforeEach(async () => {
    directory = await temporaryDirectory();
  });

  afterEach(async () => {
    await directory.remove();
  });

  describe('of a disk whose origin answers late', () => {
    const SIZE = 64 * BLOCK;
    let content: Buffer;
    let origin: SlowOrigin;
    let proxy: ServedProxy;

    beforeEach(async () => {
      content = bytesOf(1, SIZE);
      origin = await startSlowOrigin({ directory: directory.path, content, tellsHoles: false });
      proxy = await openServedProxy({
        name: 'disk',
        image: path('b.img'),
        origin: origin.uri,
        stateDir: path('b.state'),
        settings: { 'origin-timeout': 1 },
      });
    });

    afterEach(async () => {
      origin.disk.release();
      await proxy.close();
      await origin.stop();
    });

    const outcome = (start: (done: Completion) => void): Promise<number> =>
      new Promise((resolve) => start({ complete: resolve }));

    async function hold(): Promise<void> {
      origin.disk.hold();
      await sleep(20);
    }

    async function releaseAndComplete(): Promise<void> {
      origin.disk.release();
      await waitFor('the origin is let go', () => proxy.keeper.record.origin === null);
      const whole = Buffer.alloc(SIZE);
      assert.equal(await outcome((done) => proxy.disk.read(whole, 0, done)), 0);
      assertSameBytes(whole, content);
      assertSameBytes(await readFile(path('b.img')), content);
    }

    it('in standby: a read is an error once, and its buffer is left alone afterwards', async () => {
      await hold();
      const into = Buffer.alloc(3 * BLOCK, 0xee);
      assert.equal(await outcome((done) => proxy.disk.read(into, 100, done)), Errno.EIO);
      into.fill(0xdd);
      origin.disk.release();
      await sleep(200);
      assert.ok(into.every((byte) => byte === 0xdd));
      assert.equal(await outcome((done) => proxy.disk.read(into, 100, done)), 0);
      assertSameBytes(into, content.subarray(100, 100 + into.length));
    });

    it('in standby: a first write that is an error is not carried out later, although the takeover is', async () => {
      await hold();
      assert.equal(
        await outcome((done) => proxy.disk.write(Buffer.alloc(BLOCK, 7), BLOCK, false, done)),
        Errno.EIO,
      );
      await releaseAndComplete();
    });

    it('after the takeover: reads, parts of blocks, trims; never what is present, never late', async () => {
      // What the background copy asks for is held back, too.
      origin.disk.hold('reads');
      await proxy.takeover();
      await waitFor('a read at the origin', () => origin.disk.held > 0);
      const local = bytesOf(9, BLOCK);
      assert.equal(await outcome((done) => proxy.disk.write(local, 2 * BLOCK, false, done)), 0);
      local.copy(content, 2 * BLOCK);
      const into = Buffer.alloc(8 * BLOCK, 0xee);
      const began = performance.now();
      const answers = await Promise.all([
        outcome((done) => proxy.disk.read(into, 0, done)),
        outcome((done) => proxy.disk.write(Buffer.from('late'), 20 * BLOCK + 5, true, done)),
        outcome((done) => proxy.disk.trim(30 * BLOCK + 5, BLOCK, false, done)),
        outcome((done) => proxy.disk.cache(40 * BLOCK, BLOCK, done)),
      ]);
      assert.deepEqual(answers, [Errno.EIO, Errno.EIO, Errno.EIO, Errno.EIO]);
      const took = performance.now() - began;
      assert.ok(took > 900 && took < 5000, `they waited ${took} ms`);
      into.fill(0xdd);
      const present = Buffer.alloc(BLOCK);
      assert.equal(await outcome((done) => proxy.disk.read(present, 2 * BLOCK, done)), 0);
      assertSameBytes(present, local);
      const patient = Buffer.alloc(BLOCK);
      const reading = outcome((done) => proxy.disk.read(patient, 0, done));
      origin.disk.release();
      assert.equal(await reading, 0);
      assertSameBytes(patient, content.subarray(0, BLOCK));
      await releaseAndComplete();
      assert.ok(
        into.every((byte) => byte === 0xdd),
        'a late answer went into a buffer that is not its own',
      );
    });
  });

  describe('of an export process', () => {
    const SIZE = 4 * 1024 * 1024;
    const ABSENT = SIZE - 64 * BLOCK;
    let content: Buffer;
    let wan: Wan;
    let proxy: ExportProcess;
    let guest: Client;
    const started: ExportProcess[] = [];

    async function startProxy(...args: string[]): Promise<void> {
      const origin = `nbd://${wan.address}/disk`;
      proxy = await startExport('proxy', 'disk', path('b'), [
        ...['--image', path('b.img'), '--origin', origin],
        ...args,
      ]);
      started.push(proxy);
      guest = await connectClient(proxy.uri);
    }

    async function setTimeoutTo(timeout: unknown): Promise<void> {
      const client = await connectControl(`${proxy.socket}.ctl`);
      try {
        await client.call('origin-timeout', undefined, { timeout });
      } finally {
        client.close();
      }
    }

    beforeEach(async () => {
      content = bytesOf(2, SIZE);
      await writeFile(path('a.img'), content);
      started.push(await startExport('target', 'disk', path('a'), ['--image', path('a.img')]));
      wan = await startWan({ to: path('a'), rttMs: 5, rateMbit: 10 });
    });

    afterEach(async () => {
      await wan.resume();
      for (const each of started.splice(0).reverse()) await each.end('SIGKILL');
      await wan.stop();
    });

    const completed = () =>
      proxy.until((status) => status.state === 'serving' && status.origin === null, 30_000);

    it('is for ever when the command line says none, as the daemon does', async () => {
      await startProxy('--origin-timeout', 'none');
      assert.equal((await proxy.status()).originTimeoutSeconds, null);
      await guest.write(0, content.subarray(0, BLOCK));
      await wan.cut();
      await proxy.until((status) => !status.originReachable);
      const read = guest.read(ABSENT, BLOCK);
      await sleep(50);
      await wan.resume();
      assertSameBytes(await read, content.subarray(ABSENT, ABSENT + BLOCK));
      guest.disconnect();
    });

    it('what was asked for those who have been answered is not kept until the origin is back', async () => {
      await startProxy('--origin-timeout', '1');
      await wan.cut();
      await proxy.until((status) => !status.originReachable);
      const reads = Array.from({ length: 9 }, (_, at) => guest.read(ABSENT + at * BLOCK, BLOCK));
      for (const each of reads) await assert.rejects(each, isEio);
      await wan.resume();
      await proxy.until((status) => status.originReachable);
      const [, again] = /(\d+) requests are sent again/.exec(proxy.log())!;
      assert.equal(again, '1', 'the wait for the end of the source is one');
      guest.disconnect();
    });

    it('is for ever unless somebody says otherwise; then it holds for those who wait, and over a restart', async () => {
      await startProxy();
      await guest.write(0, content.subarray(0, BLOCK));
      await wan.cut();
      await proxy.until((status) => !status.originReachable);
      assert.equal((await proxy.status()).originTimeoutSeconds, null);
      const read = guest.read(ABSENT, BLOCK);
      const write = guest.write(ABSENT + 10 * BLOCK + 1, Buffer.from('never'));
      read.catch(() => undefined);
      write.catch(() => undefined);
      assert.equal(await Promise.race([read.then(() => 'came'), sleep(1500, 'waits')]), 'waits');
      assert.equal((await proxy.status()).requestsWaiting, 2);
      await setTimeoutTo(1);
      await assert.rejects(read, isEio);
      await assert.rejects(write, isEio);
      assert.equal((await proxy.status()).requestsWaiting, 0);
      assertSameBytes(await guest.read(0, BLOCK), content.subarray(0, BLOCK));
      assert.equal(
        proxy
          .log()
          .split('\n')
          .filter((line) => line.includes('origin-timeout')).length,
        1,
        proxy.log(),
      );
      guest.disconnect();
      await proxy.end();
      await startProxy('--origin-timeout', '600');
      assert.equal((await proxy.status()).originTimeoutSeconds, 1);
      await assert.rejects(guest.read(ABSENT, BLOCK), isEio);
      await setTimeoutTo('default');
      assert.equal((await proxy.status()).originTimeoutSeconds, 600);
      for (const wrong of [0, 1.5, 86_401, 'soon', null])
        await assert.rejects(setTimeoutTo(wrong), /allowed is a number of seconds from 1/);
      const patient = guest.read(ABSENT, BLOCK);
      await wan.resume();
      assertSameBytes(await patient, content.subarray(ABSENT, ABSENT + BLOCK));
      await completed();
      assertSameBytes(await readFile(path('b.img')), content);
      guest.disconnect();
    });
  });
});
