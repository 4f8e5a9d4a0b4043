/**
 * What the present map says after kill -9, after a loss of power, and to somebody else's disk (rules 4, 5 and
 * 9).
 */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
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
  /** Only what is durable: the marks of another boot do not count. */
  const losePower = async (): Promise<void> => {
    const path = join(directory.path, 'present.live');
    const bytes = await readFile(path);
    const text = bytes.toString('utf8', 0, bytes.indexOf('\n'));
    const other = JSON.stringify({ ...(JSON.parse(text) as object), boot: 'another' });
    bytes.fill(0, 0, 4096);
    bytes.write(`${other}\n`);
    await writeFile(path, bytes);
  };
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

  it('a sync that fails makes the flush fail, and no mark durable; a later flush brings them', async () => {
    const map = await create();
    map.mark(1, 1);
    const failed = flush(map);
    syncs.end(5);
    assert.equal(await failed, 5);
    const flushed = flush(map);
    syncs.end();
    assert.equal(await flushed, 0);
    await losePower();
    assert.ok((await reopen()).has(1));
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
