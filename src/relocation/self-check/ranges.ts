/** Stretches of a disk, gathered block by block in any order, neighbours put together. */
import { BLOCK_SIZE } from '../../store/maps/present-map.ts';

export interface ByteRange {
  offset: number;
  length: number;
}

/** So many are kept; of more, the bytes are counted. */
const MOST = 1000;
/** So many are shown. */
const SHOWN = 100;
const NAMED = 5;

export class Ranges {
  /** All that were added. */
  bytes = 0;
  readonly #kept: ByteRange[] = [];
  #left = false;

  /** Adds blocks [first, end) of a disk of `sizeBytes`; none is added twice. */
  add(first: number, end: number, sizeBytes: number): void {
    const offset = first * BLOCK_SIZE;
    const length = Math.min(end * BLOCK_SIZE, sizeBytes) - offset;
    this.bytes += length;
    let at = this.#kept.findIndex((range) => range.offset > offset);
    if (at === -1) at = this.#kept.length;
    const before = this.#kept[at - 1];
    const after = this.#kept[at];
    if (before !== undefined && before.offset + before.length === offset) {
      before.length += length;
      if (after !== undefined && after.offset === offset + length) {
        before.length += after.length;
        this.#kept.splice(at, 1);
      }
    } else if (after !== undefined && after.offset === offset + length) {
      after.offset = offset;
      after.length += length;
    } else if (this.#kept.length < MOST) this.#kept.splice(at, 0, { offset, length });
    else this.#left = true;
  }

  /** The first of them, in order; a copy. */
  get first(): ByteRange[] {
    return this.#kept.slice(0, SHOWN).map((range) => ({ ...range }));
  }

  /** For a log: how many bytes, and where the first few are. */
  text(): string {
    const named = this.#kept.slice(0, NAMED).map(({ offset, length }) => `${length} at offset ${offset}`);
    const more = this.#left || this.#kept.length > NAMED ? ' and more' : '';
    return `${this.bytes} bytes (${named.join(', ')}${more})`;
  }
}
