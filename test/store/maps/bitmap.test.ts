import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Bitmap } from '../../../src/store/maps/bitmap.ts';

describe('bitmap', () => {
  it('does what a list of booleans does', () => {
    const step = fc.record({
      set: fc.boolean(),
      a: fc.nat(),
      b: fc.nat(),
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.array(step, { maxLength: 30 }), (length, steps) => {
        const bitmap = new Bitmap(length);
        const list = new Array<boolean>(length).fill(false);
        for (const { set, a, b } of steps) {
          const [from, end] = [a % (length + 1), b % (length + 1)].sort((x, y) => x - y) as [number, number];
          const clear = list.slice(from, end).filter((bit) => !bit).length;
          if (set) assert.equal(bitmap.set(from, end - from), clear);
          else bitmap.clear(from, end - from);
          list.fill(set, from, end);
          assert.equal(bitmap.count, list.filter(Boolean).length);
          for (let at = 0; at < length; at++) assert.equal(bitmap.has(at), list[at]);
          for (let at = 0; at <= length; at++) {
            for (const until of [length, Math.max(at, end)]) {
              assert.equal(bitmap.nextSet(at, until), search(list, true, at, until));
              assert.equal(bitmap.nextClear(at, until), search(list, false, at, until));
            }
          }
        }
        const copy = new Bitmap(length);
        copy.load(bitmap.bytes);
        assert.deepEqual(copy.bytes, bitmap.bytes);
        assert.equal(copy.count, bitmap.count);
      }),
      { numRuns: 100 },
    );
  });

  it('takes nothing past its length from a stored bitmap, and no harm from a short or a long one', () => {
    for (const length of [1, 31, 32, 33, 63, 64, 65]) {
      const bitmap = new Bitmap(length);
      bitmap.load(Buffer.alloc(1000, 0xff));
      assert.equal(bitmap.count, length);
      assert.equal(bitmap.nextClear(0), length);
    }
    const bitmap = new Bitmap(100);
    bitmap.load(Buffer.of(0b101));
    assert.deepEqual([bitmap.count, bitmap.nextSet(1), bitmap.nextSet(3)], [2, 2, 100]);
    bitmap.load(Buffer.of(0b010));
    assert.equal(bitmap.count, 3, 'loading adds');
  });

  it('refuses a length past which two bits would be one', () => {
    assert.throws(() => new Bitmap(2 ** 32 + 1), RangeError);
  });
});

function search(list: boolean[], wanted: boolean, from: number, end: number): number {
  for (let at = from; at < end; at++) if (list[at] === wanted) return at;
  return end;
}
