/** Block ranges against a set of blocks, in random order. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { BLOCK_SIZE, type BlockRange, BlockRanges, bytesIn } from '../../src/store/block-ranges.ts';

const BLOCKS = 64;

/** The ranges that a set of blocks makes. */
function rangesOf(blocks: ReadonlySet<number>): BlockRange[] {
  const ranges: BlockRange[] = [];
  for (let block = 0; block < BLOCKS; block++) {
    if (!blocks.has(block)) continue;
    const last = ranges.at(-1);
    if (last?.end === block) last.end += 1;
    else ranges.push({ first: block, end: block + 1 });
  }
  return ranges;
}

describe('block ranges', () => {
  const step = fc.record({
    what: fc.constantFrom('add', 'add', 'add', 'remove', 'take', 'has'),
    first: fc.integer({ min: 0, max: BLOCKS - 1 }),
    count: fc.integer({ min: 1, max: 12 }),
  });

  it('are what a set of blocks is, whatever is added, removed and taken', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const ranges = new BlockRanges();
        const model = new Set<number>();
        for (const { what, first, count } of steps) {
          const end = Math.min(first + count, BLOCKS);
          const blocks = Array.from({ length: end - first }, (_, at) => first + at);
          if (what === 'add') {
            assert.equal(ranges.add(first, end), true);
            for (const block of blocks) model.add(block);
          } else if (what === 'remove') {
            ranges.remove(first, end);
            for (const block of blocks) model.delete(block);
          } else if (what === 'take') {
            const [lowest] = rangesOf(model);
            const expected = lowest && {
              first: lowest.first,
              end: Math.min(lowest.end, lowest.first + count),
            };
            const taken = ranges.take(count);
            assert.deepEqual(taken, expected);
            for (let block = taken?.first ?? 0; block < (taken?.end ?? 0); block++) model.delete(block);
          } else {
            assert.equal(
              ranges.hasAll(first, end),
              blocks.every((block) => model.has(block)),
            );
            assert.equal(
              ranges.hasAny(first, end),
              blocks.some((block) => model.has(block)),
            );
          }
          assert.deepEqual([...ranges], rangesOf(model));
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('are so many at most; one that touches another is always taken', () => {
    const ranges = new BlockRanges(2);
    assert.equal(ranges.add(0, 1), true);
    assert.equal(ranges.add(4, 5), true);
    assert.equal(ranges.add(2, 3), false);
    assert.equal(ranges.add(1, 4), true);
    assert.deepEqual([...ranges], [{ first: 0, end: 5 }]);
  });

  it('count the bytes of a short last block', () => {
    const size = 2 * BLOCK_SIZE + 100;
    assert.equal(bytesIn(0, 3, size), size);
    assert.equal(bytesIn(2, 3, size), 100);
    assert.equal(bytesIn(1, 2, size), BLOCK_SIZE);
    assert.equal(bytesIn(3, 3, size), 0);
  });
});
