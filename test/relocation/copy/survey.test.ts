/** An origin may say of its holes what it likes: it costs us no more memory than we choose. */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { AllocationFlag } from '../../../src/nbd/constants.ts';
import { HoleSkipper, type HoleSkipperOptions } from '../../../src/relocation/copy/hole-skipper.ts';
import { Survey } from '../../../src/relocation/copy/survey.ts';
import { BlockLocks } from '../../../src/relocation/fetch/block-locks.ts';
import type { OriginLink } from '../../../src/relocation/origin/link.ts';
import type { Extent, ExtentsCompletion } from '../../../src/store/completion.ts';
import type { PresentMap } from '../../../src/store/maps/present-map.ts';

const BLOCK = 4096;
/** 4 GiB. */
const BLOCKS = 1024 * 1024;
/** As many as a reply may have. */
const MANY = 32 * 1024;
const HOLE = AllocationFlag.HOLE | AllocationFlag.ZERO;

const nothingPresent = {
  blocks: BLOCKS,
  sizeBytes: BLOCKS * BLOCK,
  nextAbsent: (from: number) => from,
} as unknown as PresentMap;

describe('an origin whose every second block is a hole', () => {
  it('is asked no further than its holes are dealt with, and then to the end', async () => {
    const link = {
      extents: (offset: number, length: number, done: ExtentsCompletion) => {
        const first = offset / BLOCK;
        const extents = Array.from(
          { length: Math.min(MANY, length / BLOCK) },
          (_, at): Extent => ({ length: BLOCK, flags: (first + at) % 2 === 0 ? HOLE : 0 }),
        );
        setImmediate(() => done.complete(0, extents));
      },
    } as unknown as OriginLink;
    const holes: number[] = [];
    let data = 0;
    const survey = new Survey({
      link,
      map: nothingPresent,
      hole: (first, end) => {
        for (let block = first; block < end; block++) holes.push(block);
      },
      holesWaiting: () => holes.length,
      failed: (errno) => assert.fail(`error ${errno}`),
      proceeded: () => undefined,
    });
    /** The copy is fast. */
    const fetchAll = () => {
      for (let next = survey.nextData(); next !== undefined; next = survey.nextData()) {
        data += next.end - next.first;
        survey.taken(next.end);
      }
    };
    const proceed = async () => {
      for (let turns = 0; turns < 50; turns++) {
        survey.proceed();
        fetchAll();
        await turn();
      }
    };
    await proceed();
    assert.ok(holes.length < 100_000, `${holes.length} holes wait`);
    let skipped = 0;
    while (!survey.isOver) {
      skipped += holes.splice(0).length;
      await proceed();
      assert.ok(holes.length < 100_000, `${holes.length} holes wait`);
    }
    assert.deepEqual([skipped + holes.length, data], [BLOCKS / 2, BLOCKS / 2]);
  });

  it('one after the other they are one hole', () => {
    const locks = new BlockLocks();
    // Nothing gets on.
    locks.acquire(0, BLOCKS, () => undefined);
    const skipper = new HoleSkipper({ locks, map: nothingPresent } as unknown as HoleSkipperOptions);
    for (let block = 0; block < 10_000; block++) skipper.add(block, block + 1);
    assert.equal(skipper.waiting, 1);
    assert.equal(skipper.idle, false);
  });
});
