/**
 * Rule 6: a fetch that arrives late never overwrites a newer write. Rule 7: what fails is never zeros, and is
 * tried again.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Errno } from '../../../src/nbd/constants.ts';
import { openServedProxy, type ServedProxy } from '../../../src/relocation/served-proxy.ts';
import type { Completion } from '../../../src/store/completion.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { type SlowOrigin, startSlowOrigin } from '../../lab/nbd/slow-origin.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';
import { waitFor } from '../../lab/wait-for.ts';

const BLOCK = 4096;
const BLOCKS = 32;

describe('a late fetch', function () {
  this.timeout(30_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let origin: SlowOrigin;
  let proxy: ServedProxy | null;
  let mounted: string | null;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    content = bytesOf(1, BLOCKS * BLOCK);
    proxy = null;
    mounted = null;
    origin = await startSlowOrigin({ directory: directory.path, content, tellsHoles: false });
  });

  afterEach(async () => {
    origin.disk.release();
    origin.disk.failWith = null;
    await proxy?.close();
    await origin.stop();
    if (mounted !== null) execFileSync('umount', [mounted]);
    await directory.remove();
  });

  /** A proxy after its takeover, whose every fetch is held back at the origin. */
  async function startHeld(image = join(directory.path, 'b.img')): Promise<ServedProxy> {
    proxy = await openServedProxy({
      name: 'disk',
      image,
      origin: origin.uri,
      stateDir: join(directory.path, 'b.state'),
    });
    const { disk } = origin;
    const waiting = waitFor('a read at the origin', () => disk.held >= 1);
    await proxy.takeover();
    disk.hold();
    await waiting;
    return proxy;
  }

  const outcome = (start: (done: Completion) => void): Promise<number> =>
    new Promise((resolve) => start({ complete: resolve }));
  const read = async (offset: number, length: number): Promise<Buffer> => {
    const into = Buffer.alloc(length, 0xee);
    assert.equal(await outcome((done) => proxy!.disk.read(into, offset, done)), 0);
    return into;
  };
  const completed = () => waitFor('the origin is let go', () => proxy!.keeper.record.origin === null);
  const now = (promise: Promise<number>) =>
    Promise.race([promise, new Promise<string>((resolve) => setTimeout(resolve, 2000, 'it waits'))]);

  async function equalsEverywhere(expected: Buffer): Promise<void> {
    assertSameBytes(await read(0, expected.length), expected);
    await completed();
    assertSameBytes(await read(0, expected.length), expected);
    assertSameBytes(await readFile(join(directory.path, 'b.img')), expected);
  }

  const newer = Buffer.alloc(2 * BLOCK, 'newer than the fetch ');
  const changes: [string, (done: Completion) => void, (expected: Buffer) => void][] = [
    [
      'a write of whole blocks',
      (done) => proxy!.disk.write(newer, 2 * BLOCK, false, done),
      (expected) => newer.copy(expected, 2 * BLOCK),
    ],
    [
      'a trim of whole blocks',
      (done) => proxy!.disk.trim(2 * BLOCK, 2 * BLOCK, false, done),
      (expected) => expected.fill(0, 2 * BLOCK, 4 * BLOCK),
    ],
    [
      'a zeroing of whole blocks',
      (done) => proxy!.disk.zero(2 * BLOCK, 2 * BLOCK, { fua: true, noHole: true, fast: false }, done),
      (expected) => expected.fill(0, 2 * BLOCK, 4 * BLOCK),
    ],
  ];
  for (const [what, change, onModel] of changes) {
    it(`leaves ${what}, which was acknowledged while the fetch was held back`, async () => {
      await startHeld();
      const early = Buffer.alloc(BLOCKS * BLOCK);
      const reading = outcome((done) => proxy!.disk.read(early, 0, done));
      assert.equal(await now(outcome(change)), 0, 'whole blocks need no fetch');
      onModel(content);
      assertSameBytes(await read(2 * BLOCK, 2 * BLOCK), content.subarray(2 * BLOCK, 4 * BLOCK));
      origin.disk.release();
      assert.equal(await reading, 0);
      await equalsEverywhere(content);
    });
  }

  const partials: [string, number, number][] = [
    ['inside one block', 5 * BLOCK + 100, 50],
    ['over the edge of two blocks', 6 * BLOCK - 3, 6],
    ['of whole blocks and parts', 7 * BLOCK + 1, 3 * BLOCK],
    ['up to the end', (BLOCKS - 1) * BLOCK + 77, BLOCK - 77],
  ];
  for (const [what, offset, length] of partials) {
    for (const kind of ['write', 'trim', 'zero'] as const) {
      it(`is waited for by a ${kind} ${what}, which then stays`, async () => {
        await startHeld();
        const data = Buffer.alloc(length, 'xyz');
        const changing = outcome((done) => {
          if (kind === 'write') proxy!.disk.write(data, offset, false, done);
          else if (kind === 'trim') proxy!.disk.trim(offset, length, false, done);
          else proxy!.disk.zero(offset, length, { fua: false, noHole: false, fast: false }, done);
        });
        let answered = false;
        void changing.then(() => {
          answered = true;
        });
        await new Promise((resolve) => setTimeout(resolve, 30));
        assert.equal(answered, false, 'the rest of the block is not known yet');
        origin.disk.release();
        assert.equal(await changing, 0);
        (kind === 'write' ? data : Buffer.alloc(length)).copy(content, offset);
        await equalsEverywhere(content);
      });
    }
  }

  it('leaves a write that comes after a partial one has begun to wait', async () => {
    await startHeld();
    const partial = outcome((done) => proxy!.disk.write(Buffer.from('partial'), 3 * BLOCK + 9, false, done));
    assert.equal(
      await now(outcome((done) => proxy!.disk.write(newer.subarray(0, BLOCK), 3 * BLOCK, false, done))),
      0,
    );
    origin.disk.release();
    assert.equal(await partial, 0);
    newer.copy(content, 3 * BLOCK, 0, BLOCK);
    content.write('partial', 3 * BLOCK + 9);
    await equalsEverywhere(content);
  });

  it('is answered from here when the guest has written all of it and the origin is let go', async () => {
    await startHeld();
    const reading = Buffer.alloc(BLOCK);
    const read1 = outcome((done) => proxy!.disk.read(reading, 9 * BLOCK, done));
    const partial = outcome((done) => proxy!.disk.write(Buffer.from('!'), 9 * BLOCK + 5, false, done));
    const all = bytesOf(2, content.length);
    assert.equal(await now(outcome((done) => proxy!.disk.write(all, 0, false, done))), 0);
    // Every block is present now. The origin's answers never come.
    await completed();
    assert.equal(await now(read1), 0);
    assert.equal(await now(partial), 0);
    assert.ok(
      reading.equals(all.subarray(9 * BLOCK, 10 * BLOCK)) ||
        reading.equals(content.subarray(9 * BLOCK, 10 * BLOCK)),
    );
    all.write('!', 9 * BLOCK + 5);
    await equalsEverywhere(all);
  });

  it('a block that the origin cannot read is an error, never zeros; it comes once the origin can', async () => {
    let attempts = 0;
    origin.disk.failWith = (offset, length) => {
      if (offset > 20 * BLOCK || offset + length <= 20 * BLOCK) return 0;
      attempts++;
      return Errno.EIO;
    };
    proxy = await openServedProxy({
      name: 'disk',
      image: join(directory.path, 'b.img'),
      origin: origin.uri,
      stateDir: join(directory.path, 'b.state'),
    });
    await proxy.takeover();
    await waitFor('a second attempt', () => attempts >= 2);
    const into = Buffer.alloc(BLOCK);
    assert.equal(await outcome((done) => proxy!.disk.read(into, 20 * BLOCK, done)), Errno.EIO);
    assert.equal(
      await outcome((done) => proxy!.disk.write(Buffer.from('?'), 20 * BLOCK + 1, false, done)),
      Errno.EIO,
    );
    assert.match(proxy.describe().error ?? '', /cannot be copied: error 5/);
    assert.equal(proxy.baseState(), 'relocating');
    origin.disk.failWith = null;
    await equalsEverywhere(content);
    assert.equal(proxy.describe().error, null);
  });

  /** Mounts a small file system. @returns the path of an image on it */
  async function smallRoom(test: Mocha.Context, size: string): Promise<string> {
    const room = join(directory.path, 'room');
    await mkdir(room);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', room], { stdio: 'pipe' });
    } catch (error) {
      console.log(`skipped: a small tmpfs cannot be mounted: ${(error as Error).message.split('\n')[0]}`);
      test.skip();
    }
    mounted = room;
    return join(room, 'b.img');
  }

  it('that has no room as a whole is kept where a guest writes a part of a block, which has', async function () {
    const image = await smallRoom(this, '48k');
    origin.disk.hold('reads');
    const stateDir = join(directory.path, 'b.state');
    proxy = await openServedProxy({ name: 'disk', image, origin: origin.uri, stateDir });
    await proxy.takeover();
    const [offset, length] = [16 * BLOCK, 64 * 1024];
    const reading = read(offset, length);
    // The write joins that fetch, of more than there is room for.
    const whole = (each: { offset: number; length: number }) =>
      each.offset === offset && each.length === length;
    await waitFor('the read at the origin', () => origin.disk.reads.some(whole));
    const data = Buffer.from('a part of a block');
    const changing = outcome((done) => proxy!.disk.write(data, offset + 5 * BLOCK + 9, false, done));
    origin.disk.release();
    assert.equal(await changing, 0);
    assertSameBytes(await reading, content.subarray(offset, offset + length));
    assert.notEqual(proxy.describe().copyPaused, null);
    data.copy(content, offset + 5 * BLOCK + 9);
    assertSameBytes(await read(0, content.length), content);
    execFileSync('mount', ['-o', 'remount,size=4m', mounted!]);
    await completed();
    assertSameBytes(await readFile(image), content);
  });

  it('a local disk that is full leaves the block absent: readers have their data, and it is fetched again', async function () {
    const image = await smallRoom(this, '64k');
    await startHeld(image);
    origin.disk.release();
    await waitFor('the copy pauses', () =>
      /^no room in .*room for the \d+ bytes/.test(proxy!.describe().copyPaused ?? ''),
    );
    assert.equal(proxy!.baseState(), 'relocating');
    for (let pass = 0; pass < 2; pass++) assertSameBytes(await read(0, content.length), content);
    const errno = await outcome((done) => proxy!.disk.write(Buffer.alloc(BLOCKS * BLOCK, 1), 0, false, done));
    assert.equal(errno, Errno.ENOSPC);
    execFileSync('mount', ['-o', 'remount,size=4m', mounted!]);
    await waitFor('the origin is let go', () => proxy!.keeper.record.origin === null);
    assert.deepEqual([proxy!.describe().error, proxy!.describe().copyPaused], [null, null]);
    const kept = await readFile(image);
    // The write failed: of each byte either may be there.
    assert.ok(kept.every((byte, at) => byte === 1 || byte === content[at]));
    assert.equal((await stat(image)).size, content.length);
  });
});
