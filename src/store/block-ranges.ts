/**
 * Blocks of a disk, and ranges of them. Everywhere `first` and `end` are blocks, [first, end), and `offset`
 * and `length` are bytes; here one becomes the other, and neighbouring ranges become one. A disk's last block
 * may be short: whatever counts bytes has to know the disk's size.
 */

/** Bytes of a block. */
export const BLOCK_SIZE = 4096;

/** Blocks [first, end). */
export interface BlockRange {
  first: number;
  end: number;
}

/** The block that byte `offset` lies in. */
export function blockAt(offset: number): number {
  return Math.floor(offset / BLOCK_SIZE);
}

/** The first block that has no byte before `offset`. */
export function blockBehind(offset: number): number {
  return Math.ceil(offset / BLOCK_SIZE);
}

/** Where the blocks before `end` end, bytes, on a disk of `sizeBytes`. */
export function byteEnd(end: number, sizeBytes: number): number {
  return Math.min(end * BLOCK_SIZE, sizeBytes);
}

/** How many bytes the blocks [first, end) have on a disk of `sizeBytes`. */
export function bytesIn(first: number, end: number, sizeBytes: number): number {
  return byteEnd(end, sizeBytes) - byteEnd(first, sizeBytes);
}

/** How many blocks some ranges have. */
export function blocksIn(ranges: Iterable<Readonly<BlockRange>>): number {
  let blocks = 0;
  for (const { first, end } of ranges) blocks += end - first;
  return blocks;
}

/**
 * A set of blocks, as ranges in order of which no two touch. Adding behind the last one, which is what most
 * do, costs nothing; anywhere else it costs a search and a move of what stands behind.
 */
export class BlockRanges implements Iterable<Readonly<BlockRange>> {
  readonly #ranges: BlockRange[] = [];
  readonly #most: number;

  /** @param most ranges; one more, that touches none of those, is not taken */
  constructor(most = Number.POSITIVE_INFINITY) {
    this.#most = most;
  }

  /** How many ranges there are. */
  get length(): number {
    return this.#ranges.length;
  }

  /** The first of them; it changes with the set. */
  get first(): Readonly<BlockRange> | undefined {
    return this.#ranges[0];
  }

  [Symbol.iterator](): IterableIterator<Readonly<BlockRange>> {
    return this.#ranges.values();
  }

  /** Every block of [first, end) is in it. */
  hasAll(first: number, end: number): boolean {
    const range = this.#ranges[this.#reaching(first + 1)];
    return range !== undefined && range.first <= first && end <= range.end;
  }

  /** A block of [first, end) is in it. */
  hasAny(first: number, end: number): boolean {
    const range = this.#ranges[this.#reaching(first + 1)];
    return range !== undefined && range.first < end;
  }

  /** Adds [first, end). @returns false when that would be a range too many */
  add(first: number, end: number): boolean {
    if (first >= end) return true;
    const at = this.#reaching(first);
    const next = this.#ranges[at];
    if (next === undefined || end < next.first) {
      if (this.#ranges.length >= this.#most) return false;
      this.#ranges.splice(at, 0, { first, end });
      return true;
    }
    // It touches `next`, and those behind as far as it reaches.
    next.first = Math.min(next.first, first);
    next.end = Math.max(next.end, end);
    let joined = at + 1;
    for (; joined < this.#ranges.length && this.#ranges[joined]!.first <= next.end; joined++)
      next.end = Math.max(next.end, this.#ranges[joined]!.end);
    if (joined > at + 1) this.#ranges.splice(at + 1, joined - at - 1);
    return true;
  }

  /** Takes [first, end) out; what is left of a range that it cuts in two always has its place. */
  remove(first: number, end: number): void {
    for (let at = this.#reaching(first + 1); at < this.#ranges.length; ) {
      const range = this.#ranges[at]!;
      if (range.first >= end) return;
      if (at === 0 && first <= range.first && end >= range.end) {
        // Much cheaper than a splice where there are many.
        this.#ranges.shift();
        continue;
      }
      const behind = range.end > end ? [{ first: end, end: range.end }] : [];
      if (range.first < first) {
        range.end = first;
        at += 1;
        this.#ranges.splice(at, 0, ...behind);
      } else this.#ranges.splice(at, 1, ...behind);
    }
  }

  /** Takes the first range out, or `most` blocks from its beginning; undefined when nothing is left. */
  take(most: number): BlockRange | undefined {
    const range = this.#ranges[0];
    if (range === undefined) return undefined;
    if (range.end - range.first <= most) return this.#ranges.shift();
    const taken = { first: range.first, end: range.first + most };
    range.first = taken.end;
    return taken;
  }

  clear(): void {
    this.#ranges.length = 0;
  }

  /** Index of the first range that ends at `block` or behind it; `length` when there is none. */
  #reaching(block: number): number {
    let low = this.#ranges.length;
    // Mostly it is behind the last one, or the last one's neighbour.
    while (low > 0 && low > this.#ranges.length - 2 && this.#ranges[low - 1]!.end >= block) low -= 1;
    if (low === this.#ranges.length || low === 0 || this.#ranges[low - 1]!.end < block) return low;
    let high = low;
    for (low = 0; low < high; ) {
      const middle = (low + high) >>> 1;
      if (this.#ranges[middle]!.end >= block) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
