/** What a property test does to a proxy, as fast-check makes it up. */
import fc from 'fast-check';

export type Change = 'write' | 'trim' | 'zero';

export type Action =
  | { kind: 'read'; from: number; length: number }
  | { kind: Change; from: number; length: number; fua: boolean; seed: number }
  | { kind: 'sourceWrite'; from: number; length: number; seed: number }
  | { kind: 'flush' | 'settle' | 'restart' | 'takeover' | 'sourceLeaves' | 'originRestart' }
  | { kind: 'pause' | 'hold'; ms: number };

export interface Scenario {
  blocks: number;
  /** Bytes after the last whole block. */
  tail: number;
  /** Of the origin's content, its holes and its delays. */
  seed: number;
  actions: Action[];
}

/** A range as shares of the disk, so that it fits any size; unaligned, on sectors or on blocks. */
const range = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  length: fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: 1, max: 3 * 4096 }) },
    { weight: 3, arbitrary: fc.integer({ min: 1, max: 8 }).map((blocks) => blocks * 4096) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: 300 * 4096 }) },
  ),
  align: fc.constantFrom(1, 512, 4096),
  seed: fc.nat(),
  fua: fc.boolean(),
});

const template = fc.oneof(
  { weight: 12, arbitrary: fc.record({ kind: fc.constant('read' as const), range }) },
  { weight: 12, arbitrary: fc.record({ kind: fc.constant('write' as const), range }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('trim' as const, 'zero' as const), range }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('sourceWrite' as const), range }) },
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('pause' as const), ms: fc.integer({ min: 0, max: 8 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('hold' as const), ms: fc.integer({ min: 1, max: 25 }) }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'settle' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom('takeover' as const, 'sourceLeaves' as const) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('restart' as const) }) },
);

const rareOriginRestart = fc.record({ kind: fc.constant('originRestart' as const) });

/** @param most the largest number of actions */
export function scenarios(most: number): fc.Arbitrary<Scenario> {
  return fc
    .record({
      blocks: fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 30, max: 500 })),
      tail: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 4095 }), fc.constantFrom(512, 1024, 3584)),
      seed: fc.nat(),
      templates: fc.array(
        fc.oneof({ weight: 60, arbitrary: template }, { weight: 1, arbitrary: rareOriginRestart }),
        { minLength: most / 4, maxLength: most, size: 'max' },
      ),
    })
    .filter(({ blocks, tail }) => blocks + tail > 0)
    .map(({ blocks, tail, seed, templates }) => {
      const size = blocks * 4096 + tail;
      const actions = templates.map((each): Action => {
        if (!('range' in each)) return each;
        const { at, length, align, fua, seed: bytes } = each.range;
        const from = Math.floor((at * (size - 1)) / align) * align;
        const rounded = Math.ceil(length / align) * align;
        return { kind: each.kind, from, length: Math.min(rounded, size - from), fua, seed: bytes };
      });
      return { blocks, tail, seed, actions };
    });
}
