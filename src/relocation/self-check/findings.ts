/** What a comparison has found: blocks in any order, how many bytes they are and where. */
import { BLOCK_SIZE, type BlockRange, BlockRanges, bytesIn } from '../../store/block-ranges.ts';

export interface ByteRange {
  offset: number;
  length: number;
}

/** So many ranges are remembered; of more, the bytes are counted. */
const MOST = 1000;
/** So many are shown. */
const SHOWN = 100;
const NAMED = 5;

export class Findings {
  /** All that were added. */
  bytes = 0;
  readonly #sizeBytes: number;
  readonly #ranges = new BlockRanges(MOST);
  #more = false;

  /** @param sizeBytes of the disk */
  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** Adds blocks [first, end); none is added twice. */
  add(first: number, end: number): void {
    this.bytes += bytesIn(first, end, this.#sizeBytes);
    if (!this.#ranges.add(first, end)) this.#more = true;
  }

  /** The first of them, in order; a copy. */
  get first(): ByteRange[] {
    return this.#named(SHOWN);
  }

  /** For a log: how many bytes, and where the first few are. */
  text(): string {
    const named = this.#named(NAMED).map(({ offset, length }) => `${length} at offset ${offset}`);
    const more = this.#more || this.#ranges.length > NAMED ? ' and more' : '';
    return `${this.bytes} bytes (${named.join(', ')}${more})`;
  }

  #named(most: number): ByteRange[] {
    const bytes = ({ first, end }: BlockRange): ByteRange => ({
      offset: first * BLOCK_SIZE,
      length: bytesIn(first, end, this.#sizeBytes),
    });
    return [...this.#ranges].slice(0, most).map(bytes);
  }
}
