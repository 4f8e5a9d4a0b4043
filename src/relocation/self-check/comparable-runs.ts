/** Cuts runs of blocks where holes of the local image begin and end. */
import { AllocationFlag } from '../../nbd/constants.ts';
import {
  BLOCK_SIZE,
  type BlockRange,
  BlockRanges,
  blockAt,
  blockBehind,
  byteEnd,
} from '../../store/block-ranges.ts';
import type { Image } from '../../store/image/image.ts';

/** A shorter hole is compared as data: asking for it costs as much. */
const SHORTEST_HOLE = 16;

/** Blocks that are a hole of the image, or data. */
export interface Run extends BlockRange {
  hole: boolean;
}

/** [first, end) in order, as runs of data and runs of holes; a block that is a hole in part is data. */
export function cutHoles(image: Image, first: number, end: number): Run[] {
  const holes = new BlockRanges();
  const limit = byteEnd(end, image.size);
  for (let at = first * BLOCK_SIZE; at < limit; ) {
    for (const { length, flags } of image.extents(at, limit - at, false)) {
      const until = at + length;
      const holeFirst = blockBehind(at);
      const holeEnd = until === limit ? end : blockAt(until);
      if ((flags & AllocationFlag.HOLE) !== 0 && holeEnd - holeFirst >= SHORTEST_HOLE)
        holes.add(holeFirst, holeEnd);
      at = until;
    }
  }
  const runs: Run[] = [];
  let at = first;
  for (const hole of holes) {
    if (at < hole.first) runs.push({ first: at, end: hole.first, hole: false });
    runs.push({ ...hole, hole: true });
    at = hole.end;
  }
  if (at < end) runs.push({ first: at, end, hole: false });
  return runs;
}
