/** Cuts runs of blocks where holes of the local image begin and end. */
import { AllocationFlag } from '../../nbd/constants.ts';
import type { Image } from '../../store/image/image.ts';
import { BLOCK_SIZE } from '../../store/maps/present-map.ts';

/** A shorter hole is compared as data: asking for it costs as much. */
const SHORTEST_HOLE = 16;

/** Blocks [first, end), all of them a hole of the image or not. */
export interface Run {
  first: number;
  end: number;
  hole: boolean;
}

/** [first, end) in order, as runs of data and runs of holes; a block that is a hole in part is data. */
export function cutHoles(image: Image, first: number, end: number): Run[] {
  const runs: Run[] = [];
  const add = (until: number, hole: boolean): void => {
    const from = runs.at(-1)?.end ?? first;
    if (until <= from) return;
    const last = runs.at(-1);
    if (last?.hole === hole) last.end = until;
    else runs.push({ first: from, end: until, hole });
  };
  const limit = Math.min(end * BLOCK_SIZE, image.size);
  for (let at = first * BLOCK_SIZE; at < limit; ) {
    for (const { length, flags } of image.extents(at, limit - at, false)) {
      const until = at + length;
      const holeFirst = Math.ceil(at / BLOCK_SIZE);
      const holeEnd = until === limit ? end : Math.floor(until / BLOCK_SIZE);
      if ((flags & AllocationFlag.HOLE) !== 0 && holeEnd - holeFirst >= SHORTEST_HOLE) {
        add(holeFirst, false);
        add(holeEnd, true);
      }
      at = until;
    }
  }
  add(end, false);
  return runs;
}
