/** What the soak calls growth. */
import assert from 'node:assert/strict';
import { judge } from './growth.ts';

describe('growth from move to move', () => {
  const moves = (count: number, value: (move: number) => number): number[] =>
    Array.from({ length: count }, (_, move) => value(move));

  it('is a descriptor that is lost every ten moves', () => {
    const { grows, slope } = judge(
      'descriptors',
      moves(60, (move) => 20 + Math.floor(move / 10)),
      0,
    );
    assert.equal(grows, true);
    assert.ok(slope > 0.08 && slope < 0.12, `${slope}`);
  });

  it('is no descriptor that is open for a moment, no warm-up, and no breath of memory', () => {
    assert.equal(
      judge(
        'descriptors',
        moves(60, (move) => (move % 7 === 0 ? 22 : 20)),
        0,
      ).grows,
      false,
    );
    assert.equal(
      judge(
        'pss',
        moves(60, (move) => Math.min(80, 20 + 15 * move)),
        8,
      ).grows,
      false,
    );
    assert.equal(
      judge(
        'pss',
        moves(60, (move) => 60 + ((move * 7919) % 13)),
        8,
      ).grows,
      false,
    );
  });

  it('is a quarter of a MiB a move', () => {
    assert.equal(
      judge(
        'pss',
        moves(60, (move) => 60 + move / 4 + ((move * 7919) % 5)),
        8,
      ).grows,
      true,
    );
  });

  it('is nothing that a few moves tell', () => {
    assert.equal(
      judge(
        'pss',
        moves(5, (move) => 60 + 30 * move),
        8,
      ).grows,
      null,
    );
  });
});
