/** BLOCK_STATUS and CACHE of a disk that is still arriving. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { AllocationFlag } from '../../../src/nbd/constants.ts';
import { openServedProxy, type ServedProxy } from '../../../src/relocation/served-proxy.ts';
import type { Completion, Extent } from '../../../src/store/completion.ts';
import { installed } from '../../lab/installed.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { type SlowOrigin, startSlowOrigin } from '../../lab/nbd/slow-origin.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCK = 4096;
const BLOCKS = 512;
const HOLE = AllocationFlag.HOLE | AllocationFlag.ZERO;

describe('block status of a proxy', function () {
  this.timeout(30_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let origin: SlowOrigin;
  let proxy: ServedProxy | null;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    content = bytesOf(3, BLOCKS * BLOCK);
    content.fill(0, 10 * BLOCK, 20 * BLOCK);
    content.fill(0, 100 * BLOCK + 512, 110 * BLOCK - 512);
    proxy = null;
    origin = await startSlowOrigin({ directory: directory.path, content });
  });

  afterEach(async () => {
    origin.disk.release();
    await proxy?.close();
    await origin.stop();
    await directory.remove();
  });

  async function startProxy(uri = origin.uri): Promise<ServedProxy> {
    proxy = await openServedProxy({
      name: 'disk',
      image: join(directory.path, 'b.img'),
      origin: uri,
      stateDir: join(directory.path, 'b.state'),
    });
    return proxy;
  }

  const errnoOf = (start: (done: Completion) => void): Promise<number> =>
    new Promise((resolve) => start({ complete: resolve }));
  const extents = (offset: number, length: number, one = false): Promise<readonly Extent[]> =>
    new Promise((resolve, reject) => {
      proxy!.disk.extents(offset, length, one, {
        complete: (errno, found) => (errno === 0 ? resolve(found) : reject(new Error(`error ${errno}`))),
      });
    });
  /** Asks on until the whole range is told. */
  async function all(offset: number, length: number): Promise<[number, number][]> {
    const runs: [number, number][] = [];
    for (let at = offset; at < offset + length; ) {
      const found = await extents(at, offset + length - at);
      assert.ok(found.length > 0);
      for (const extent of found) {
        assert.ok(extent.length > 0);
        const last = runs.at(-1);
        if (last?.[1] === extent.flags) last[0] += extent.length;
        else runs.push([extent.length, extent.flags]);
        at += extent.length;
      }
      assert.ok(at <= offset + length, 'never past what was asked for');
    }
    return runs;
  }
  const ofTheOrigin = [
    [10 * BLOCK, 0],
    [10 * BLOCK, HOLE],
    [80 * BLOCK + 512, 0],
    [10 * BLOCK - 1024, HOLE],
    [402 * BLOCK + 512, 0],
  ];

  it('in standby is that of the origin, as it is now', async () => {
    await startProxy();
    assert.deepEqual(await all(0, content.length), ofTheOrigin);
    assert.deepEqual(await extents(9 * BLOCK + 1, BLOCK), [
      { length: BLOCK - 1, flags: 0 },
      { length: 1, flags: HOLE },
    ]);
    assert.deepEqual(await extents(9 * BLOCK + 1, BLOCK, true), [{ length: BLOCK - 1, flags: 0 }]);
    content.fill(1, 15 * BLOCK, 16 * BLOCK);
    assert.deepEqual(await all(10 * BLOCK, 10 * BLOCK), [
      [5 * BLOCK, HOLE],
      [BLOCK, 0],
      [4 * BLOCK, HOLE],
    ]);
    assert.equal(origin.disk.reads.length, 0);
  });

  it('after the takeover tells holes of the origin without a read, and what was changed here', async () => {
    await startProxy();
    origin.disk.hold('reads');
    await proxy!.takeover();
    assert.deepEqual(await all(0, content.length), ofTheOrigin);
    const { disk } = proxy!;
    assert.equal(await errnoOf((done) => disk.write(Buffer.alloc(BLOCK, 1), 12 * BLOCK, false, done)), 0);
    assert.equal(await errnoOf((done) => disk.trim(50 * BLOCK, 5 * BLOCK, false, done)), 0);
    assert.deepEqual(await all(5 * BLOCK, 60 * BLOCK), [
      [5 * BLOCK, 0],
      [2 * BLOCK, HOLE],
      [BLOCK, 0],
      [7 * BLOCK, HOLE],
      [30 * BLOCK, 0],
      [5 * BLOCK, HOLE],
      [10 * BLOCK, 0],
    ]);
    assert.deepEqual(await extents(12 * BLOCK, 10 * BLOCK, true), [{ length: BLOCK, flags: 0 }]);
    assert.ok(proxy!.describe().presentBytes! < content.length, 'all this while blocks were absent');
  });

  it('never calls zeros what is none, and never waits for the origin where blocks are present', async () => {
    await startProxy();
    const waiting = new Promise<void>((resolve) => {
      const look = setInterval(() => {
        if (origin.disk.held < 1) return;
        clearInterval(look);
        resolve();
      }, 2);
    });
    await proxy!.takeover();
    origin.disk.hold();
    await waiting;
    const { disk } = proxy!;
    assert.equal(await errnoOf((done) => disk.write(Buffer.alloc(BLOCK, 1), 200 * BLOCK, false, done)), 0);
    // The origin answers nothing now.
    const [present] = await extents(200 * BLOCK, (BLOCKS - 200) * BLOCK, true);
    assert.equal(present!.flags, 0);
    origin.disk.release();
    origin.disk.hold('reads');
    Buffer.alloc(BLOCK, 1).copy(content, 200 * BLOCK);
    const range = fc.tuple(fc.nat(content.length - 1), fc.integer({ min: 1, max: content.length }));
    await fc.assert(
      fc.asyncProperty(range, async ([offset, wanted]) => {
        let at = offset;
        for (const [length, flags] of await all(offset, Math.min(wanted, content.length - offset))) {
          if (flags !== 0) assert.ok(content.subarray(at, at + length).every((byte) => byte === 0));
          at += length;
        }
      }),
      { numRuns: 200 },
    );
  });

  it('is data throughout where the origin tells nothing', async function () {
    if (!installed('nbdkit')) this.skip();
    const image = join(directory.path, 'a.img');
    const socket = join(directory.path, 'nbdkit.sock');
    writeFileSync(image, content);
    const arguments_ = [
      '-f',
      '-U',
      socket,
      '--filter=noextents',
      '--filter=delay',
      'file',
      image,
      'rdelay=1',
    ];
    const nbdkit = spawn('nbdkit', arguments_, { stdio: 'ignore' });
    try {
      while (!existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 5));
      await startProxy(`nbd+unix:///?socket=${socket}`);
      assert.deepEqual(await all(0, content.length), [[content.length, 0]]);
      await proxy!.takeover();
      assert.deepEqual(await all(0, content.length), [[content.length, 0]]);
    } finally {
      nbdkit.kill('SIGKILL');
    }
  });

  it('CACHE in standby succeeds and keeps nothing', async () => {
    await startProxy();
    assert.equal(await errnoOf((done) => proxy!.disk.cache(0, content.length, done)), 0);
    assert.equal(origin.disk.reads.length, 0);
    assert.equal((await stat(join(directory.path, 'b.img'))).blocks, 0);
  });

  it('CACHE after the takeover fetches and keeps, whatever else is under way', async () => {
    await startProxy();
    origin.disk.hold('reads');
    await proxy!.takeover();
    const { disk } = proxy!;
    const cached = errnoOf((done) => disk.cache(300 * BLOCK + 5, 50 * BLOCK, done));
    const again = errnoOf((done) => disk.cache(0, content.length, done));
    origin.disk.release();
    assert.deepEqual([await cached, await again], [0, 0]);
    assert.equal(proxy!.describe().presentBytes, content.length);
    const into = Buffer.alloc(content.length);
    assert.equal(await errnoOf((done) => disk.read(into, 0, done)), 0);
    assert.ok(into.equals(content));
  });
});
