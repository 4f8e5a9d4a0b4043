import assert from 'node:assert/strict';
import { piecesOf } from '../../../src/relocation/fetch/zero-runs.ts';
import { BLOCK_SIZE } from '../../../src/store/block-ranges.ts';

describe('fetched data, split into data and zeros', () => {
  /** `d` a block of data, `0` one of zeros; the last may be short. */
  const pieces = (blocks: string, cut = 0): string => {
    const data = Buffer.alloc(blocks.length * BLOCK_SIZE - cut);
    // The last byte of a block is what a look at its first would miss.
    for (let at = 0; at < blocks.length; at++)
      if (blocks[at] === 'd') data[Math.min((at + 1) * BLOCK_SIZE, data.length) - 1] = 1;
    return piecesOf(data)
      .map(({ first, end, zero }) => `${zero ? 'zero' : 'data'} ${first}-${end}`)
      .join(', ');
  };
  const long = '0'.repeat(16);

  it('is one piece of data without zeros, or with few of them', () => {
    assert.equal(pieces('dddd'), 'data 0-4');
    assert.equal(pieces(`d${'0'.repeat(15)}d`), 'data 0-17');
    assert.equal(pieces('0000'), 'data 0-4');
  });

  it('has a hole wherever zeros are long enough, also at both ends', () => {
    assert.equal(pieces(long), 'zero 0-16');
    assert.equal(pieces(`d${long}d`), 'data 0-1, zero 1-17, data 17-18');
    assert.equal(pieces(`${long}0dd${long}`), 'zero 0-17, data 17-19, zero 19-35');
    assert.equal(pieces(`d0d${long}d0d`), 'data 0-3, zero 3-19, data 19-22');
  });

  it('a short last block counts as one', () => {
    assert.equal(pieces(`d${long}`, 100), 'data 0-1, zero 1-17');
    assert.equal(pieces(`${long}d`, 100), 'zero 0-16, data 16-17');
  });
});
