/** What the background copy fetches next, and how much at a time, is asked of its order and its pace. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { Errno } from '../../../src/nbd/constants.ts';
import { BackgroundCopy } from '../../../src/relocation/copy/background-copy.ts';
import { type CopyOrder, firstOf } from '../../../src/relocation/copy/copy-order.ts';
import type { Pace } from '../../../src/relocation/copy/pace.ts';
import { BadBlocks } from '../../../src/relocation/fetch/bad-blocks.ts';
import { BlockLocks } from '../../../src/relocation/fetch/block-locks.ts';
import type { BlockSource } from '../../../src/relocation/fetch/block-source.ts';
import { Fetcher } from '../../../src/relocation/fetch/fetcher.ts';
import { ImageSpace } from '../../../src/relocation/fetch/image-space.ts';
import type { OriginLink } from '../../../src/relocation/origin/link.ts';
import { PathWindow } from '../../../src/relocation/path/path-window.ts';
import { BLOCK_SIZE, type BlockRange, BlockRanges } from '../../../src/store/block-ranges.ts';
import type { ExtentsCompletion } from '../../../src/store/completion.ts';
import { Image } from '../../../src/store/image/image.ts';
import { PresentMap } from '../../../src/store/maps/present-map.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';
import { waitFor } from '../../lab/wait-for.ts';

const BLOCKS = 512;
/** The last block is short. */
const SIZE = BLOCKS * BLOCK_SIZE - 100;

describe('the background copy', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let image: Image;
  let map: PresentMap;
  let space: ImageSpace;
  let copy: BackgroundCopy;
  let following: boolean;
  const content = bytesOf(7, SIZE);
  beforeEach(async () => {
    following = true;
    directory = await temporaryDirectory();
    image = await Image.create(join(directory.path, 'b.img'), SIZE);
    const identity = { uuid: 'u', sizeBytes: SIZE, image: image.path, inode: 1, origin: 'o' };
    map = await PresentMap.create(join(directory.path), identity, image);
    space = new ImageSpace({ image: null, missing: () => 0, onChange: () => undefined });
  });
  afterEach(async () => {
    copy.stop();
    space.stop();
    await map.close();
    await image.close();
    await directory.remove();
  });

  /** Copies everything from an origin that does not tell its holes. @returns the reads, in order, in blocks */
  const copyAll = async (pace: Pace, guest?: (fetcher: Fetcher) => void): Promise<BlockRange[]> => {
    const reads: BlockRange[] = [];
    const source: BlockSource = {
      read: (into, offset, done) => {
        reads.push({ first: offset / BLOCK_SIZE, end: Math.ceil((offset + into.length) / BLOCK_SIZE) });
        content.copy(into, 0, offset);
        setImmediate(() => done.complete(0));
      },
    };
    const link = {
      extents: (_offset: number, _length: number, done: ExtentsCompletion) =>
        setImmediate(() => done.complete(Errno.ENOTSUP, [])),
    } as unknown as OriginLink;
    const parts = { image, map, space, locks: new BlockLocks(), bad: new BadBlocks(map) };
    const fetcher = new Fetcher({ ...parts, source });
    const follow = { pathBytes: () => 0, follow: () => following };
    copy = new BackgroundCopy({ ...parts, link, fetcher, pace, ...follow });
    const complete = new Promise<void>((resolve) => {
      map.onMarked = () => {
        if (map.complete) resolve();
      };
    });
    guest?.(fetcher);
    copy.start();
    await complete;
    await waitFor('the last fetch', () => fetcher.idle);
    return reads;
  };

  it('goes from the first block to the last, each block once, and the last mark tells that it is over', async () => {
    const reads = await copyAll(new PathWindow({ probed: false }));
    const all = new BlockRanges();
    let next = 0;
    for (const { first, end } of reads) {
      assert.equal(first, next);
      all.add(first, end);
      next = end;
    }
    assert.deepEqual([...all], [{ first: 0, end: BLOCKS }]);
    const copied = Buffer.alloc(SIZE);
    assert.equal(await new Promise((resolve) => image.read(copied, 0, { complete: resolve })), 0);
    assert.ok(copied.equals(content));
  });

  const READ = { first: 300, end: 304 };
  const reads = (fetcher: Fetcher): void => {
    const reader = { take: () => undefined, complete: () => undefined, over: false };
    fetcher.read(READ.first, READ.end, reader);
  };

  it('follows the guest: what lies behind its read, then before it, then the rest', async () => {
    const [first, ...then] = await copyAll(new PathWindow({ probed: false }), reads);
    assert.deepEqual(first, READ);
    const reach = (512 * 1024) / BLOCK_SIZE;
    const behind = new BlockRanges();
    const before = new BlockRanges();
    while ([...behind].at(-1)?.end !== READ.end + reach) {
      const { first, end } = then.shift()!;
      assert.ok(first >= READ.end, `${first} is asked for too early`);
      behind.add(first, end);
    }
    while ([...before].at(0)?.first !== READ.first - reach) {
      const { first, end } = then.shift()!;
      assert.equal(end, before.first?.first ?? READ.first);
      before.add(first, end);
    }
    assert.deepEqual([...behind], [{ first: READ.end, end: READ.end + reach }]);
    assert.equal(then[0]!.first, 0);
  });

  it('does not where that is switched off', async () => {
    following = false;
    const [first, second] = await copyAll(new PathWindow({ probed: false }), reads);
    assert.deepEqual(first, READ);
    assert.equal(second!.first, 0);
  });

  it('sends as much as its pace allows, and goes on when that opens by itself', async () => {
    const most = 16 * BLOCK_SIZE;
    let opensAt = 0;
    let sentWhileClosed = 0;
    const pace: Pace = {
      chunk: most,
      get open() {
        return performance.now() >= opensAt;
      },
      get reopensAt() {
        return this.open ? null : opensAt;
      },
      sent(bytes) {
        assert.ok(bytes <= most);
        if (!this.open) sentWhileClosed += 1;
        opensAt = performance.now() + 3;
      },
      answered: () => undefined,
      failed: () => undefined,
    };
    const reads = await copyAll(pace);
    assert.equal(reads.length, BLOCKS / 16);
    assert.equal(sentWhileClosed, 0);
  });
});

describe('orders of the copy', () => {
  it('are asked in turn, and all told what clients asked for', () => {
    const told: string[] = [];
    const order = (name: string, ranges: BlockRange[]): CopyOrder => ({
      noticed: ({ first, end }, by) => told.push(`${name}: ${by} ${first} to ${end}`),
      next: () => ranges.shift(),
    });
    const both = firstOf(order('hot', [{ first: 9, end: 10 }]), order('all', [{ first: 0, end: 4 }]));
    both.noticed({ first: 5, end: 6 }, 'read');
    assert.deepEqual(told, ['hot: read 5 to 6', 'all: read 5 to 6']);
    assert.deepEqual(both.next(16), { first: 9, end: 10 });
    assert.deepEqual(both.next(16), { first: 0, end: 4 });
    assert.equal(both.next(16), undefined);
  });
});
