/**
 * BLOCK_STATUS of a disk that is still arriving: present stretches as the image has them, absent ones as the
 * origin has them (origin/allocation.ts); nothing is fetched for it. An answer ends where the origin would
 * have to be asked first, so that what is local is told without the network; only one that begins there waits
 * for the origin.
 */

import { BLOCK_SIZE, blockAt, blockBehind } from '../../store/block-ranges.ts';
import type { Extent, ExtentsCompletion } from '../../store/completion.ts';
import type { Image } from '../../store/image/image.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import { type OriginAllocation, STRETCH } from '../origin/allocation.ts';

/** The most extents that one answer gives. */
const MAX_EXTENTS = 4096;

export interface ExtentSources {
  image: Image;
  map: PresentMap;
  allocation: OriginAllocation;
}

/** @param one the first extent suffices. */
export function proxyExtents(
  sources: ExtentSources,
  offset: number,
  length: number,
  one: boolean,
  done: ExtentsCompletion,
): void {
  const extents = locally(sources, offset, length, one);
  if (extents.length > 0) {
    done.complete(0, extents);
    return;
  }
  sources.allocation.ask(offset, STRETCH, () => {
    const now = locally(sources, offset, length, one);
    // Forgotten again already: data is never wrong.
    done.complete(0, now.length > 0 ? now : [{ length: Math.min(length, BLOCK_SIZE), flags: 0 }]);
  });
}

/**
 * What can be told without asking the origin; nothing when the first block is absent and nothing is known of
 * it.
 */
function locally(sources: ExtentSources, offset: number, length: number, one: boolean): Extent[] {
  const { image, map, allocation } = sources;
  const extents: Extent[] = [];
  const end = offset + length;
  const endBlock = blockBehind(end);
  let at = offset;
  while (at < end && extents.length < MAX_EXTENTS) {
    const block = blockAt(at);
    const present = map.has(block);
    const runEnd = present ? map.nextAbsent(block, endBlock) : map.nextPresent(block, endBlock);
    const until = Math.min(runEnd * BLOCK_SIZE, end);
    const run = present ? image.extents(at, until - at, one) : allocation.known(at, until);
    if (run === null) break;
    for (const extent of run) {
      const last = extents.at(-1);
      // Where a hole of ours meets one of the origin the client sees one.
      if (last?.flags === extent.flags) last.length += extent.length;
      else extents.push({ ...extent });
      at += extent.length;
    }
    if (one && extents.length > 1) return extents.slice(0, 1);
    if (one && at < until) break;
  }
  return extents;
}
