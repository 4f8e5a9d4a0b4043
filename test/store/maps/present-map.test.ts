/**
 * What the present map says after kill -9, after a loss of power, and to somebody else's disk (rules 4, 5 and
 * 9).
 */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { mkdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Completion } from '../../../src/store/completion.ts';
import { type MapIdentity, PresentMap } from '../../../src/store/maps/present-map.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const identity: MapIdentity = {
  uuid: '8f14e45f-ceea-467f-a1d2-9d3c5b6a7e80',
  sizeBytes: 100_000 * 4096 + 100,
  image: '/a.img',
  inode: 1,
  origin: 'nbd://a/a',
};

/** An image whose syncs end when they are let. */
class Syncs {
  readonly path = tmpdir();
  readonly waiting: Completion[] = [];
  sync(done: Completion): void {
    this.waiting.push(done);
  }
  end(errno = 0): void {
    this.waiting.shift()!.complete(errno);
  }
}

describe('present map', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let syncs: Syncs;
  const open: PresentMap[] = [];
  beforeEach(async () => {
    directory = await temporaryDirectory();
    syncs = new Syncs();
  });
  afterEach(async () => {
    for (const map of open.splice(0)) await map.close().catch(() => undefined);
    await directory.remove();
  });

  const create = async (): Promise<PresentMap> => {
    const map = await PresentMap.create(directory.path, identity, syncs);
    open.push(map);
    return map;
  };
  const reopen = async (as: MapIdentity = identity): Promise<PresentMap> => {
    const map = await PresentMap.open(directory.path, as, syncs);
    open.push(map);
    return map;
  };
  type Header = Record<string, unknown> & { cache: Record<string, unknown> };
  /** Changes what a file says of itself. */
  const rewrite = async (name: string, change: (header: Header) => object): Promise<void> => {
    const path = join(directory.path, name);
    const bytes = await readFile(path);
    const header = JSON.parse(bytes.toString('utf8', 0, bytes.indexOf('\n'))) as Header;
    bytes.fill(0, 0, 4096);
    bytes.write(`${JSON.stringify(change(header))}\n`);
    await writeFile(path, bytes);
  };
  /** The live file's page cache is another one. */
  const elsewhere = (change: object): Promise<void> =>
    rewrite('present.live', (header) => ({ ...header, cache: { ...header.cache, ...change } }));
  /** Only what is durable: the marks of another boot do not count. */
  const losePower = (): Promise<void> => elsewhere({ boot: 'another' });
  const flush = (map: PresentMap): Promise<number> =>
    new Promise((resolve) => map.flush({ complete: resolve }));
  const soon = () => new Promise((resolve) => setTimeout(resolve, 20));

  it('after kill -9 knows every mark', async () => {
    const map = await create();
    assert.equal(map.mark(5, 70_000), 0);
    assert.equal(map.mark(map.blocks - 1, 1), 0);
    const again = await reopen();
    assert.equal(again.presentBytes, 70_000 * 4096 + 100);
    assert.ok(again.hasAll(5, 70_005));
    assert.ok(!again.has(4) && !again.has(70_005));
  });

  it('after a loss of power knows what a completed flush covered, and nothing else', async () => {
    const map = await create();
    map.mark(10, 10);
    const flushed = flush(map);
    map.mark(100, 1);
    syncs.end();
    assert.equal(await flushed, 0);
    await losePower();
    const again = await reopen();
    assert.ok(again.hasAll(10, 20));
    assert.ok(!again.has(100), 'its data was not in the image when that was synced');
  });

  it('has no mark on disk before the image is synced', async () => {
    const map = await create();
    map.mark(10, 10);
    const flushed = flush(map);
    await soon();
    await losePower();
    assert.equal((await reopen()).presentBytes, 0);
    syncs.end();
    await flushed;
  });

  it('lets a flush that comes during another wait for a sync of its own', async () => {
    const map = await create();
    map.mark(1, 1);
    const first = flush(map);
    map.mark(2, 1);
    let secondDone = false;
    const second = flush(map).then((errno) => {
      secondDone = true;
      return errno;
    });
    syncs.end();
    assert.equal(await first, 0);
    await soon();
    assert.equal(secondDone, false);
    assert.equal(syncs.waiting.length, 1);
    syncs.end();
    assert.equal(await second, 0);
    await losePower();
    assert.ok((await reopen()).hasAll(1, 3));
  });

  it('a sync that fails leaves what an earlier one covered, to this process and to the next', async () => {
    const map = await create();
    map.mark(1, 1);
    const synced = flush(map);
    syncs.end();
    await synced;
    map.mark(20, 10);
    const failed = flush(map);
    let heard = false;
    map.onFailed = () => {
      heard = true;
    };
    syncs.end(5);
    assert.equal(await failed, 5);
    assert.ok(heard);
    assert.match(map.failed!, /a sync of .* failed: nothing is kept any more; mend its storage, then start/);
    assert.notEqual(map.mark(40, 1), 0, 'what nobody will vouch for is not acknowledged');
    assert.equal(map.mark(1, 1), 0, 'what is durable may be written');
    const again = await reopen();
    assert.deepEqual([again.has(1), again.has(20), again.has(40)], [true, false, false]);
    assert.equal(again.lost?.line, null, 'no guest wrote any of it');
    again.mark(20, 10);
    assert.ok((await reopen()).hasAll(20, 30), 'the next process is trusted as the first one was');
  });

  it('a sync that fails names what a guest had written since the one before, also where it was present then', async () => {
    const map = await create();
    map.mark(0, 8);
    map.changed(0, 1);
    const synced = flush(map);
    map.changed(2, 1);
    syncs.end();
    await synced;
    map.changed(5, 2);
    const failed = flush(map);
    map.changed(7, 1);
    syncs.end(5);
    await failed;
    for (const { lost } of [map, await reopen(), await reopen()]) {
      assert.equal(lost!.bytes, 4 * 4096);
      assert.deepEqual(
        [0, 1, 2, 3, 4, 5, 6, 7].filter((block) => lost!.has(block)),
        [2, 5, 6, 7],
      );
      assert.match(
        lost!.line!,
        /^16384 bytes that the guest wrote, first at 8192, are lost \(a sync of .* failed at /,
      );
    }
    // The mark is torn: that something is lost stays known.
    await rewrite('lost.map', () => ({}));
    assert.match((await reopen()).lost!.line!, /^writes of the guest, nobody knows where, are lost/);
  });

  it('a sync that fails takes the trust away also where nothing can be renamed', async () => {
    const map = await create();
    map.mark(20, 10);
    const failed = flush(map);
    await mkdir(join(directory.path, 'lost.map'));
    syncs.end(5);
    await failed;
    assert.equal((await reopen()).presentBytes, 0);
  });

  it('storage that went away and came back has what was synced, and what a guest wrote is named', async () => {
    for (const change of [{ image: 'ext4 1' }, { state: 'ext4 1' }, { image: null }, { state: null }]) {
      const map = await create();
      map.mark(1, 1);
      const synced = flush(map);
      syncs.end();
      await synced;
      map.written.mark(3, 2);
      map.mark(2, 6);
      map.changed(3, 2);
      await elsewhere(change);
      const again = await reopen();
      assert.deepEqual([again.presentBytes, again.has(1)], [4096, true]);
      assert.match(again.lost!.line!, /^8192 bytes that the guest wrote, first at 12288, .*came back/);
      again.mark(2, 6);
      const third = await reopen();
      assert.ok(third.hasAll(1, 8));
      assert.equal(third.lost!.bytes, 8192);
    }
  });

  it('storage that nobody can name is not trusted', async () => {
    const nameless = { path: '/nonexistent', sync: (done: Completion) => syncs.sync(done) };
    const map = await PresentMap.create(directory.path, identity, nameless);
    open.push(map);
    map.mark(1, 1);
    const again = await PresentMap.open(directory.path, identity, nameless);
    open.push(again);
    assert.equal(again.presentBytes, 0);
  });

  it('of an older release holds what was synced, knows a device by its path, and becomes one of this', async () => {
    const map = await create();
    map.mark(1, 1);
    const synced = flush(map);
    syncs.end();
    await synced;
    map.mark(5, 1);
    let boot: unknown = null;
    const asBefore = (header: Header, of: unknown): object => ({
      ...header,
      ...{ cache: undefined, boot: of, image: syncs.path, format: 'xnbd present map 1' },
    });
    await rewrite('present.map', (header) => asBefore(header, null));
    await rewrite('present.live', (header) => {
      boot = header.cache['boot'];
      return asBefore(header, boot);
    });
    assert.equal(typeof boot, 'string');
    const again = await reopen();
    assert.deepEqual([again.has(1), again.has(5)], [true, false]);
    const text = await readFile(join(directory.path, 'present.map'), 'utf8');
    assert.match(text, /^\{"format":"xnbd present map 2",.*"image":"\/a\.img"/);
    await rewrite('present.map', (header) => ({ ...header, format: 'xnbd present map 3' }));
    await assert.rejects(reopen(), /present\.map is a present map of version 3, this release knows 2/);
  });

  it('of a disk of 16 TiB takes neither time nor memory while it is empty', async function () {
    this.timeout(60_000);
    const huge: MapIdentity = { ...identity, sizeBytes: 2 ** 44 };
    const before = process.memoryUsage.rss();
    const map = await PresentMap.create(directory.path, huge, syncs);
    open.push(map);
    map.mark(2 ** 31, 1000);
    map.written.mark(2 ** 31, 1);
    map.changed(2 ** 31, 1);
    const again = await PresentMap.open(directory.path, huge, syncs);
    open.push(again);
    assert.equal(again.presentBytes, 1000 * 4096);
    const flushed = flush(again);
    syncs.end();
    await flushed;
    const grown = process.memoryUsage.rss() - before;
    assert.ok(grown < 64 * 1024 * 1024, `${grown} bytes`);
    const { size, blocks } = await stat(join(directory.path, 'present.live'));
    assert.equal(size, 4096 + 2 ** 29);
    assert.ok(blocks * 512 >= size, 'its space is reserved');
  });

  it('makes marks durable that an earlier process left in the live file', async () => {
    (await create()).mark(7, 1);
    const again = await reopen();
    const flushed = flush(again);
    syncs.end();
    await flushed;
    await losePower();
    assert.ok((await reopen()).has(7));
  });

  it('keeps the marks of a process that dies while it opens the map', async () => {
    (await create()).mark(7, 1);
    // Dead between the new live file and its rename, half of it written.
    const live = join(directory.path, 'present.live');
    await writeFile(`${live}.new`, (await readFile(live)).subarray(0, 5000));
    assert.ok((await reopen()).has(7));
  });

  it('replaces the live file without a moment in which there is none', async () => {
    (await create()).mark(7, 1);
    const live = join(directory.path, 'present.live');
    let stopped = false;
    const opening = reopen().finally(() => {
      stopped = true;
    });
    while (!stopped) {
      const file = openSync(live, 'r');
      assert.ok(fstatSync(file).size > 4096 + 12_000, 'whole at any time');
      closeSync(file);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await opening;
  });

  it('a mark that cannot be written is none: the block stays absent', async function () {
    const map = await create();
    map.mark(1, 1);
    const live = readdirSync('/proc/self/fd').find((fd) => isAt(fd, join(directory.path, 'present.live')));
    if (live === undefined) {
      console.log('skipped: /proc/self/fd does not show the live file');
      this.skip();
    }
    // A full disk, as far as the live file is concerned.
    const full = openSync('/dev/full', 'w');
    const { dup2 } = await libc();
    const spare = openSync(join(directory.path, 'present.live'), 'r+');
    dup2(full, Number(live));
    assert.notEqual(map.mark(0, 4), 0);
    assert.deepEqual([map.has(0), map.has(1), map.has(2), map.has(3)], [false, true, false, false]);
    assert.notEqual(map.mark(0, 4), 0, 'and again');
    dup2(spare, Number(live));
    assert.equal(map.mark(0, 4), 0);
    assert.ok(map.hasAll(0, 4));
    closeSync(full);
    closeSync(spare);
    assert.ok((await reopen()).hasAll(0, 4));
  });

  it('refuses the map of another disk, image, size or origin in one line', async () => {
    await create();
    const others: Partial<MapIdentity>[] = [
      { uuid: '00000000-0000-4000-8000-000000000000' },
      { sizeBytes: 4096 },
      { image: '/b.img' },
      { inode: 2 },
      { origin: 'nbd://b/a' },
    ];
    for (const other of others) {
      const key = Object.keys(other)[0]!;
      await assert.rejects(reopen({ ...identity, ...other }), (error: Error) => {
        assert.match(error.message, new RegExp(`present\\.map is the map of another disk: its ${key} is`));
        assert.ok(!error.message.includes('\n'));
        return true;
      });
    }
    await reopen();
  });

  it('is refused when it is missing, cut short before its bits, or no map', async () => {
    await assert.rejects(reopen(), /ENOENT/);
    await create();
    const path = join(directory.path, 'present.map');
    await truncate(path, 20);
    await assert.rejects(reopen(), /present\.map is not a present map/);
    await writeFile(path, '{"format":"something else"}\n');
    await assert.rejects(reopen(), /is not a present map/);
  });

  it('does not need the live file', async () => {
    const map = await create();
    map.mark(3, 1);
    const flushed = flush(map);
    syncs.end();
    await flushed;
    await rename(join(directory.path, 'present.live'), join(directory.path, 'away'));
    assert.ok((await reopen()).has(3));
    await rm(join(directory.path, 'away'));
  });

  it('leaves nothing when it is removed', async () => {
    await create();
    await writeFile(join(directory.path, 'present.live.new'), '');
    await PresentMap.remove(directory.path);
    assert.deepEqual(readdirSync(directory.path), []);
  });
});

function isAt(fd: string, path: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === path;
  } catch {
    return false;
  }
}

async function libc(): Promise<{ dup2: (from: number, to: number) => number }> {
  const { default: koffi } = await import('koffi');
  const dup2 = koffi.load(null).func('int dup2(int from, int to)') as (from: number, to: number) => number;
  return { dup2 };
}
