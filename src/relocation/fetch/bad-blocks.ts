/**
 * The blocks that cannot be copied: the origin cannot read them, or the image cannot take them. They are
 * absent, so that the disk does not become complete; they are counted, shown, and said once. They leave the
 * list by becoming present: the copy tries them again now and then, and a guest that writes them whole has no
 * need of the old data.
 */
import type { BadRange } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import { BLOCK_SIZE, type BlockRange, BlockRanges, bytesIn } from '../../store/block-ranges.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';

/** A disk that is broken all over is counted that far, ranges of either kind. */
const MOST_RANGES = 4096;
const MOST_SHOWN = 16;
const MOST_LOGGED = 16;

export class BadBlocks {
  readonly #map: PresentMap;
  /** By what refused them. No block is in both. */
  readonly #refusedBy = { origin: new BlockRanges(MOST_RANGES), image: new BlockRanges(MOST_RANGES) };
  #logged = 0;

  constructor(map: PresentMap) {
    this.#map = map;
  }

  add(first: number, end: number, at: BadRange['at']): void {
    for (const run of this.#map.absentRuns(first, end)) this.#addAbsent(run, at);
  }

  get bytes(): number {
    return this.#all().reduce((sum, { length }) => sum + length, 0);
  }

  /** The first few. */
  get ranges(): BadRange[] {
    return this.#all().slice(0, MOST_SHOWN);
  }

  /** In one line; null while there are none. */
  get error(): string | null {
    const [first] = this.#all();
    if (first === undefined) return null;
    const whose = first.at === 'origin' ? 'reading the origin' : 'writing the image';
    return `${this.bytes} bytes cannot be copied: error 5 when ${whose}, first at ${first.offset}; the disk stays incomplete, and they are tried again now and then`;
  }

  #addAbsent({ first, end }: BlockRange, at: BadRange['at']): void {
    const { origin, image } = this.#refusedBy;
    if (!origin.hasAll(first, end) && !image.hasAll(first, end)) this.#log(this.#range(first, end, at));
    (at === 'origin' ? image : origin).remove(first, end);
    this.#refusedBy[at].add(first, end);
  }

  #log({ offset, length, at }: BadRange): void {
    this.#logged += 1;
    if (this.#logged > MOST_LOGGED) return;
    const what = at === 'origin' ? 'the origin cannot read' : 'the image cannot take';
    const more = this.#logged === MOST_LOGGED ? ' (further ones are not logged)' : '';
    log.error(`${what} ${length} bytes at ${offset}: they stay absent${more}`, { id: 'blocks-unreadable' });
  }

  /** Those that are still absent, in order. */
  #all(): BadRange[] {
    const all: BadRange[] = [];
    for (const at of ['origin', 'image'] as const) {
      const known = [...this.#refusedBy[at]];
      this.#refusedBy[at].clear();
      for (const range of known) {
        for (const { first, end } of this.#map.absentRuns(range.first, range.end)) {
          this.#refusedBy[at].add(first, end);
          all.push(this.#range(first, end, at));
        }
      }
    }
    return all.sort((a, b) => a.offset - b.offset);
  }

  #range(first: number, end: number, at: BadRange['at']): BadRange {
    return { offset: first * BLOCK_SIZE, length: bytesIn(first, end, this.#map.sizeBytes), at };
  }
}
