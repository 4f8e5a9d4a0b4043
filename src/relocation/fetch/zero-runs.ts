/**
 * Splits what was fetched into data and zeros. Zeros that the origin holds as data (a thick image, what a
 * file system has cleared) become holes here; but short ones between data stay what they are, because an
 * image in a thousand pieces is slower to read than it is small.
 */
import { BLOCK_SIZE } from '../../store/block-ranges.ts';

/** Blocks that a hole has at least. */
const LEAST = 16;
const ZERO_BLOCK = Buffer.alloc(BLOCK_SIZE);

export interface Piece {
  /** Blocks from the beginning of `data`. */
  first: number;
  end: number;
  zero: boolean;
}

/** The pieces of `data` in order; the last block may be short. */
export function piecesOf(data: Buffer): Piece[] {
  const blocks = Math.ceil(data.length / BLOCK_SIZE);
  const pieces: Piece[] = [];
  let dataFrom = 0;
  for (let block = 0; block < blocks; ) {
    if (!isZero(data, block)) {
      block += 1;
      continue;
    }
    let end = block + 1;
    while (end < blocks && isZero(data, end)) end += 1;
    if (end - block >= LEAST) {
      if (dataFrom < block) pieces.push({ first: dataFrom, end: block, zero: false });
      pieces.push({ first: block, end, zero: true });
      dataFrom = end;
    }
    block = end;
  }
  if (dataFrom < blocks) pieces.push({ first: dataFrom, end: blocks, zero: false });
  return pieces;
}

function isZero(data: Buffer, block: number): boolean {
  const from = block * BLOCK_SIZE;
  if (data[from] !== 0) return false;
  const to = Math.min(from + BLOCK_SIZE, data.length);
  return ZERO_BLOCK.compare(data, from, to, 0, to - from) === 0;
}
