/**
 * The blocks that cannot be copied: the origin cannot read them, or the image cannot take them. They are
 * absent, so that the disk does not become complete; they are counted, shown, and said once. They leave the
 * list by becoming present: the copy tries them again now and then, and a guest that writes them whole has no
 * need of the old data.
 */
import type { BadRange } from '../../control/protocol.ts';
import { log } from '../../log/log.ts';
import { BLOCK_SIZE, type PresentMap } from '../../store/maps/present-map.ts';

interface Stretch {
  first: number;
  end: number;
  at: BadRange['at'];
}

/** A disk that is broken all over is counted that far. */
const MOST_STRETCHES = 4096;
const MOST_SHOWN = 16;
const MOST_LOGGED = 16;

export class BadBlocks {
  readonly #name: string;
  readonly #map: PresentMap;
  #stretches: Stretch[] = [];
  #logged = 0;

  /** @param name of the export, for the log. */
  constructor(name: string, map: PresentMap) {
    this.#name = name;
    this.#map = map;
  }

  add(first: number, end: number, at: BadRange['at']): void {
    for (const run of this.#map.absentRuns(first, end)) this.#addAbsent({ ...run, at });
  }

  get bytes(): number {
    this.#prune();
    return this.#stretches.reduce((sum, stretch) => sum + this.#range(stretch).length, 0);
  }

  /** The first few. */
  get ranges(): BadRange[] {
    this.#prune();
    return this.#stretches.slice(0, MOST_SHOWN).map((stretch) => this.#range(stretch));
  }

  /** In one line; null while there are none. */
  get error(): string | null {
    const bytes = this.bytes;
    const first = this.#stretches[0];
    if (first === undefined) return null;
    const whose = first.at === 'origin' ? 'reading the origin' : 'writing the image';
    return `${bytes} bytes cannot be copied: error 5 when ${whose}, first at ${first.first * BLOCK_SIZE}; the disk stays incomplete, and they are tried again now and then`;
  }

  #addAbsent(bad: Stretch): void {
    const at = this.#stretches.findIndex(({ end }) => end >= bad.first);
    const next = at === -1 ? undefined : this.#stretches[at]!;
    if (next !== undefined && next.first <= bad.first && bad.end <= next.end) return;
    this.#say(bad);
    if (next === undefined || bad.end < next.first) {
      if (this.#stretches.length < MOST_STRETCHES)
        this.#stretches.splice(at === -1 ? this.#stretches.length : at, 0, bad);
      return;
    }
    // It touches what is known: both become one, and with those behind, as far as it reaches.
    let { first, end } = bad;
    let count = 0;
    for (; at + count < this.#stretches.length; count++) {
      const each = this.#stretches[at + count]!;
      if (each.first > end) break;
      first = Math.min(first, each.first);
      end = Math.max(end, each.end);
    }
    this.#stretches.splice(at, count, { first, end, at: bad.at });
  }

  #say(bad: Stretch): void {
    this.#logged += 1;
    if (this.#logged > MOST_LOGGED) return;
    const { offset, length } = this.#range(bad);
    const what = bad.at === 'origin' ? 'the origin cannot read' : 'the image cannot take';
    const more = this.#logged === MOST_LOGGED ? ' (further ones are not logged)' : '';
    log.error(`${this.#name}: ${what} ${length} bytes at ${offset}: they stay absent${more}`);
  }

  #prune(): void {
    if (this.#stretches.length === 0) return;
    this.#stretches = this.#stretches.flatMap(({ first, end, at }) =>
      this.#map.absentRuns(first, end).map((run) => ({ ...run, at })),
    );
  }

  #range({ first, end, at }: Stretch): BadRange {
    const offset = first * BLOCK_SIZE;
    return { offset, length: Math.min(end * BLOCK_SIZE, this.#map.sizeBytes) - offset, at };
  }
}
