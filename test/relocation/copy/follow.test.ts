/** What the copy takes next after the reads of a guest that had to wait. */
import assert from 'node:assert/strict';
import { Follow } from '../../../src/relocation/copy/follow.ts';
import type { Fetcher } from '../../../src/relocation/fetch/fetcher.ts';
import { BLOCK_SIZE, BlockRanges } from '../../../src/store/block-ranges.ts';

const BLOCKS = 100_000;
const REACH = (512 * 1024) / BLOCK_SIZE;

describe('the copy that follows a guest', () => {
  let absent: BlockRanges;
  let follow: Follow;
  let pathBytes: number;
  let enabled: boolean;

  beforeEach(() => {
    absent = new BlockRanges();
    absent.add(0, BLOCKS);
    pathBytes = 0;
    enabled = true;
    const within = (from: number, end: number) =>
      [...absent].find((range) => range.end > from && range.first < end);
    const fetcher = {
      nextIdle: (from: number, end: number) => Math.max(within(from, end)?.first ?? end, from),
      endOfIdle: (from: number, end: number) => Math.min(within(from, end)?.end ?? from, end),
    } as unknown as Fetcher;
    follow = new Follow({ fetcher, blocks: BLOCKS, pathBytes: () => pathBytes, enabled: () => enabled });
  });

  const reads = (first: number, count = 1): void => {
    follow.noticed({ first, end: first + count }, 'read');
    absent.remove(first, first + count);
  };
  /** Takes what it names until it has nothing, or `most` times. */
  const take = (most = Number.POSITIVE_INFINITY): [number, number][] => {
    const taken: [number, number][] = [];
    while (taken.length < most) {
      const range = follow.next(64);
      if (range === undefined) break;
      absent.remove(range.first, range.end);
      taken.push([range.first, range.end]);
    }
    return taken;
  };

  it('names nothing where no read has waited, nor around a write', () => {
    assert.deepEqual(take(), []);
    follow.noticed({ first: 5, end: 6 }, 'write');
    assert.deepEqual(take(), []);
  });

  it('names 512 KiB on both sides, what is behind it first, away from it', () => {
    reads(5000);
    assert.deepEqual(take(), [
      [5001, 5065],
      [5065, 5129],
      [4936, 5000],
      [4872, 4936],
    ]);
  });

  it('reaches twice as far as what the path holds', () => {
    pathBytes = 8 * 1024 * 1024;
    reads(50_000);
    const blocks = take().reduce((sum, [first, end]) => sum + end - first, 0);
    assert.equal(blocks, (2 * 2 * pathBytes) / BLOCK_SIZE);
  });

  it('the newest read comes first, and the older ones after it', () => {
    reads(5000);
    assert.deepEqual(take(1), [[5001, 5065]]);
    reads(70_000);
    const then = take();
    assert.deepEqual(then[0], [70_001, 70_065]);
    assert.deepEqual(then[4], [5065, 5129]);
  });

  it('a reader that goes on, forward or backward, moves its neighbourhood and crowds nobody out', () => {
    reads(5000);
    for (let at = 60_000; at < 60_000 + 1000; at++) reads(at);
    for (let at = 30_000; at > 30_000 - 1000; at--) reads(at);
    const taken = take();
    assert.deepEqual(taken[0], [28_937, 29_001]);
    assert.ok(taken.some(([first]) => first === 61_000));
    assert.ok(taken.some(([first]) => first === 5001));
  });

  it('what is here, or on its way, is left out', () => {
    absent.remove(5010, 5020);
    absent.remove(4990, 4995);
    reads(5000);
    assert.deepEqual(
      take()
        .sort(([a], [b]) => a - b)
        .slice(1),
      [
        [4931, 4990],
        [4995, 5000],
        [5001, 5010],
        [5020, 5084],
        [5084, 5129],
      ],
    );
  });

  it('keeps to the disk, and to a bounded number of places', () => {
    reads(3);
    reads(BLOCKS - 2);
    for (const [first, end] of take()) assert.ok(first >= 0 && end <= BLOCKS);
    for (let at = 0; at < 300; at++) reads(at * 300);
    assert.ok(!take().some(([first]) => first < 44 * 300 - REACH));
  });

  it('forgets everything once it is switched off', () => {
    reads(5000);
    enabled = false;
    assert.deepEqual(take(), []);
    enabled = true;
    assert.deepEqual(take(), []);
  });
});
