/**
 * What the origin holds where we have nothing yet: its allocation (BLOCK_STATUS), asked for a stretch at a
 * time and remembered. The origin is fenced, so the answer stays true; and as the background copy marks holes
 * as present, less and less of it is needed.
 *
 * An origin that does not tell, or cannot be reached, is all data: that is never wrong.
 */
import { AllocationFlag, Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, blockAt } from '../../store/block-ranges.ts';
import type { Extent } from '../../store/completion.ts';
import type { OriginLink } from './link.ts';

/** Bytes whose allocation is asked for at once. */
export const STRETCH = 128 * 1024 * 1024;
/** Extents remembered; then what was asked first is forgotten. */
const MAX_EXTENTS = 64 * 1024;
const KNOWN_FLAGS = AllocationFlag.HOLE | AllocationFlag.ZERO;

interface Stretch {
  start: number;
  end: number;
  extents: readonly Extent[];
}

export class OriginAllocation {
  readonly #link: OriginLink;
  readonly #sizeBytes: number;
  /** In the order in which they were asked for. */
  #stretches: Stretch[] = [];
  #extents = 0;
  #tells = true;

  constructor(link: OriginLink, sizeBytes: number) {
    this.#link = link;
    this.#sizeBytes = sizeBytes;
  }

  /** What is known of [offset, end), from `offset` on and contiguous: null when nothing is. */
  known(offset: number, end: number): Extent[] | null {
    const stretch = this.#stretches.find(({ start, end: until }) => start <= offset && offset < until);
    if (stretch !== undefined) return cut(stretch, offset, end);
    const silent = !this.#tells || this.#link.unreachableSince !== null;
    return silent ? [{ length: end - offset, flags: 0 }] : null;
  }

  /**
   * Asks the origin about `offset` and what follows; afterwards something is known of it. @param length
   * bytes, at most STRETCH
   */
  ask(offset: number, length: number, then: () => void): void {
    const start = blockAt(offset) * BLOCK_SIZE;
    const wanted = Math.min(offset - start + length, STRETCH, this.#sizeBytes - start);
    this.#link.extents(start, wanted, {
      complete: (errno, extents) => {
        if (errno === Errno.ENOTSUP || errno === Errno.EINVAL) this.#tells = false;
        else if (errno === 0 && lengthOf(extents) > offset - start) this.#remember(start, extents);
        // Neither may be asked again and again.
        else this.#remember(start, [{ length: BLOCK_SIZE, flags: 0 }]);
        then();
      },
    });
  }

  #remember(start: number, extents: readonly Extent[]): void {
    // Two may have asked at the same time.
    if (this.#stretches.some((each) => each.start <= start && start < each.end)) return;
    this.#stretches.push({ start, end: Math.min(start + lengthOf(extents), this.#sizeBytes), extents });
    this.#extents += extents.length;
    while (this.#extents > MAX_EXTENTS && this.#stretches.length > 1)
      this.#extents -= this.#stretches.shift()!.extents.length;
  }
}

/**
 * Before the takeover: the origin's allocation as it is now, which the source's guest may change at any time.
 * @param done gets data throughout where the origin does not tell.
 */
export function passThrough(
  link: OriginLink,
  sizeBytes: number,
  offset: number,
  length: number,
  done: (extents: Extent[]) => void,
): void {
  const map = new OriginAllocation(link, sizeBytes);
  const end = offset + length;
  const answered = () => done(map.known(offset, end) ?? [{ length, flags: 0 }]);
  if (map.known(offset, end) !== null) answered();
  else map.ask(offset, length, answered);
}

/** The part of a stretch that lies in [offset, end). */
function cut(stretch: Stretch, offset: number, end: number): Extent[] {
  const found: Extent[] = [];
  let at = stretch.start;
  for (const { length, flags } of stretch.extents) {
    const from = Math.max(at, offset);
    const until = Math.min(at + length, end, stretch.end);
    if (from < until) found.push({ length: until - from, flags: flags & KNOWN_FLAGS });
    at += length;
    if (at >= end) break;
  }
  return found;
}

function lengthOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}
