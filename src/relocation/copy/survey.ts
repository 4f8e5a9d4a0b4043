/**
 * Asks the origin which stretches of the disk are data and which are holes (BLOCK_STATUS), as far ahead of
 * the copy as it takes.
 *
 * A round trip for each 128 MiB would make an empty disk of a terabyte take minutes at the end of a long
 * line: so the stretches are long, and several are asked for at once. An origin may answer for less than it
 * was asked: the rest is asked for again. One that does not tell its allocation at all is all data.
 */
import { AllocationFlag, Errno } from '../../nbd/constants.ts';
import {
  BLOCK_SIZE,
  type BlockRange,
  BlockRanges,
  blockAt,
  blockBehind,
  blocksIn,
  byteEnd,
  bytesIn,
} from '../../store/block-ranges.ts';
import type { Extent } from '../../store/completion.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { OriginLink } from '../origin/link.ts';

/** Blocks whose allocation is asked for at once: 2 GiB. */
const STRETCH = (2 * 1024 ** 3) / BLOCK_SIZE;
const AT_ONCE = 16;
/** Stretches of data, or holes, that may wait before more are looked for; and what one answer may add. */
const MOST_WAITING = 1024;
const MOST_OF_ANSWER = 4096;

export interface SurveyOptions {
  link: OriginLink;
  map: PresentMap;
  /** [first, end) is a hole at the origin. */
  hole: (first: number, end: number) => void;
  /** How many of those have not been dealt with yet; fewer of them are reason for a `proceed`. */
  holesWaiting: () => number;
  /** The origin has failed to answer; the stretch is asked for again with the next `proceed`. */
  failed: (errno: number) => void;
  /** There is something new. */
  proceeded: () => void;
}

export class Survey {
  readonly #parts: SurveyOptions;
  /** Not asked for yet, in order. */
  readonly #unknown = new BlockRanges();
  #underWay = 0;
  /** Blocks that are asked for now, and what was found so far in the first round. */
  #asking = 0;
  #found = { holes: 0, data: 0 };
  #rounds = 0;
  /** Data that waits for the copy. */
  readonly #data = new BlockRanges();

  constructor(parts: SurveyOptions) {
    this.#parts = parts;
    this.again();
  }

  /** Everything has been asked for, and all data has been taken. */
  get isOver(): boolean {
    return this.#unknown.length === 0 && this.#underWay === 0 && this.#data.length === 0;
  }

  /** Begins anew; to be called when it is over. */
  again(): void {
    this.#rounds += 1;
    this.#unknown.add(0, this.#parts.map.blocks);
  }

  /**
   * How many blocks, of those that are absent, are holes of which it is not known yet: as large a part of
   * what has not been asked for as of the rest. null: nothing is known yet.
   */
  unknownHoles(absent: number): number | null {
    // What is absent after a round is what failed.
    if (this.#rounds > 1) return 0;
    const { holes, data } = this.#found;
    const unknown = Math.min(blocksIn(this.#unknown) + this.#asking, absent);
    if (unknown === 0) return 0;
    return holes + data === 0 ? null : (unknown * holes) / (holes + data);
  }

  /** The first data that is known and has not been taken. */
  nextData(): Readonly<BlockRange> | undefined {
    return this.#data.first;
  }

  /** What is known before block `end` is being copied, or need not be. */
  taken(end: number): void {
    this.#data.remove(0, end);
    if (this.#data.length === 0) this.proceed();
  }

  /** Asks for more, unless too many answers wait to be dealt with. */
  proceed(): void {
    const { map } = this.#parts;
    while (this.#underWay < AT_ONCE && this.#mayAsk) {
      const next = this.#unknown.first;
      if (next === undefined) return;
      const first = map.nextAbsent(next.first, next.end);
      const end = Math.min(first + STRETCH, next.end);
      this.#unknown.remove(next.first, end);
      if (first < end) this.#ask(first, end);
    }
  }

  get #mayAsk(): boolean {
    return this.#data.length <= MOST_WAITING && this.#parts.holesWaiting() <= MOST_WAITING;
  }

  #ask(first: number, end: number): void {
    const { link, map, failed, proceeded } = this.#parts;
    this.#underWay += 1;
    this.#asking += end - first;
    link.extents(first * BLOCK_SIZE, bytesIn(first, end, map.sizeBytes), {
      complete: (errno, extents) => {
        this.#underWay -= 1;
        this.#asking -= end - first;
        if (errno === 0) {
          const known = this.#take(first, end, extents);
          if (known < end) this.#unknown.add(known, end);
        } else if (errno === Errno.ENOTSUP || errno === Errno.EINVAL) {
          this.#addData(first, end);
        } else {
          // The link is closed: everything under way ends so, and it would be asked for again and again.
          if (errno === Errno.ESHUTDOWN) return;
          this.#unknown.add(first, end);
          failed(errno);
        }
        proceeded();
      },
    });
  }

  /**
   * Sorts the extents from block `first` on into holes and data; whole blocks of zeros count as holes.
   * @returns the block up to which it is known now
   */
  #take(first: number, end: number, extents: readonly Extent[]): number {
    const { map, hole } = this.#parts;
    const limit = byteEnd(end, map.sizeBytes);
    let offset = first * BLOCK_SIZE;
    let dataFrom = first;
    let stretches = 0;
    for (const { length, flags } of extents) {
      const extentEnd = Math.min(offset + length, limit);
      const holeFirst = blockBehind(offset);
      const holeEnd = extentEnd === limit ? end : blockAt(extentEnd);
      if ((flags & AllocationFlag.ZERO) !== 0 && holeFirst < holeEnd) {
        this.#addData(dataFrom, holeFirst);
        hole(holeFirst, holeEnd);
        this.#found.holes += holeEnd - holeFirst;
        dataFrom = holeEnd;
        stretches += 1;
      }
      offset = extentEnd;
      if (offset === limit || stretches === MOST_OF_ANSWER) break;
    }
    const answered = offset === limit ? end : blockAt(offset);
    // An answer of less than a block would not get us on: that block is data.
    const known = Math.max(answered, dataFrom, first + 1);
    this.#addData(dataFrom, known);
    return known;
  }

  #addData(first: number, end: number): void {
    if (first >= end) return;
    this.#found.data += end - first;
    this.#data.add(first, end);
  }
}
