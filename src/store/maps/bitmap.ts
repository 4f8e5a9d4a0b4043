/** Indexes are shifted as 32 bit numbers: one bit more and the first would be set with the last. */
const MOST_BITS = 2 ** 32;
/** Bytes of bits that are stored, or looked for, at once. */
export const PAGE = 4096;
/** What is zeros is skipped in steps of this. */
const STRIDE = 16 * PAGE;
const ZEROS = Buffer.alloc(STRIDE);

/**
 * A set of small whole numbers as bits, with the searches that a proxy needs: the next one that is set, the
 * next that is clear.
 */
export class Bitmap {
  /** How many bits there are. */
  readonly length: number;
  /** The bits, bit 0 the lowest of byte 0; bits past `length` are clear. */
  readonly bytes: Buffer;
  readonly #words: Uint32Array;
  #count = 0;

  /** @param length 2^32 at most. @throws RangeError */
  constructor(length: number) {
    if (length > MOST_BITS) throw new RangeError(`a bitmap of ${length} bits: ${MOST_BITS} is the most`);
    this.length = length;
    const words = Math.ceil(length / 32);
    this.#words = new Uint32Array(words);
    this.bytes = Buffer.from(this.#words.buffer);
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  has(index: number): boolean {
    return (this.#words[index >>> 5]! & (1 << (index & 31))) !== 0;
  }

  /** Sets `count` bits from `first`. @returns how many of them were clear. */
  set(first: number, count: number): number {
    const before = this.#count;
    const end = first + count;
    for (let index = first; index < end; ) {
      const word = index >>> 5;
      const mask = maskOf(index, end);
      this.#count += popCount(mask & ~this.#words[word]!);
      this.#words[word]! |= mask;
      index = (word + 1) * 32;
    }
    return this.#count - before;
  }

  /** Clears `count` bits from `first`. */
  clear(first: number, count: number): void {
    const end = first + count;
    for (let index = first; index < end; ) {
      const word = index >>> 5;
      const mask = maskOf(index, end);
      this.#count -= popCount(mask & this.#words[word]!);
      this.#words[word]! &= ~mask;
      index = (word + 1) * 32;
    }
  }

  /** The first set bit at or after `from`, below `end`; `end` when there is none. */
  nextSet(from: number, end: number = this.length): number {
    return this.#next(from, end, 0);
  }

  /** The first clear bit at or after `from`, below `end`; `end` when there is none. */
  nextClear(from: number, end: number = this.length): number {
    return this.#next(from, end, 0xffffffff);
  }

  /**
   * Adds the bits of a part of a stored bitmap; what it claims past `length` is ignored. Memory is touched
   * only where there are any.
   * @param at where the part begins, bytes; a multiple of 4
   * @returns how many of them were clear
   */
  load(part: Uint8Array, at = 0): number {
    const before = this.#count;
    const end = Math.min(at + part.length, this.bytes.length);
    for (let from = at; from < end; from += PAGE) {
      const to = Math.min(from + PAGE, end);
      if (ZEROS.compare(part, from - at, to - at, 0, to - from) !== 0) this.#loadPage(part, at, from, to);
    }
    return this.#count - before;
  }

  #loadPage(part: Uint8Array, at: number, from: number, to: number): void {
    const first = from >>> 2;
    const end = Math.ceil(to / 4);
    for (let word = first; word < end; word++) this.#count -= popCount(this.#words[word]!);
    for (let byte = from; byte < to; byte++) this.bytes[byte]! |= part[byte - at]!;
    const tail = this.length & 31;
    if (tail !== 0 && end === this.#words.length) this.#words[end - 1]! &= (1 << tail) - 1;
    for (let word = first; word < end; word++) this.#count += popCount(this.#words[word]!);
  }

  /** Adds the bits of another of the same length. @returns the pages that brought any, by number */
  add(other: Bitmap): number[] {
    const bytes = (page: number) => other.bytes.subarray(page * PAGE, (page + 1) * PAGE);
    return [...other.pages()].filter((page) => this.load(bytes(page), page * PAGE) > 0);
  }

  /** Those that are set here and not in another of the same length. */
  without(other: Bitmap): Bitmap {
    return this.#combined((word) => this.#words[word]! & ~other.#words[word]!);
  }

  /** Those that are set here and in another of the same length. */
  common(other: Bitmap): Bitmap {
    return this.#combined((word) => this.#words[word]! & other.#words[word]!);
  }

  /** @param combine of a word's number, where this one has any bits about there */
  #combined(combine: (word: number) => number): Bitmap {
    const result = new Bitmap(this.length);
    for (const page of this.pages()) {
      const end = Math.min(((page + 1) * PAGE) / 4, this.#words.length);
      for (let word = (page * PAGE) / 4; word < end; word++) {
        const bits = combine(word);
        if (bits === 0) continue;
        result.#words[word] = bits;
        result.#count += popCount(bits);
      }
    }
    return result;
  }

  /** The pages of `bytes` in which any bit is set, by number, in order. */
  *pages(): Generator<number> {
    if (this.#count === 0) return;
    for (let from = 0; from < this.bytes.length; from += STRIDE) {
      const end = Math.min(from + STRIDE, this.bytes.length);
      if (this.#isZero(from, end)) continue;
      for (let at = from; at < end; at += PAGE)
        if (!this.#isZero(at, Math.min(at + PAGE, end))) yield at / PAGE;
    }
  }

  #isZero(from: number, to: number): boolean {
    return ZEROS.compare(this.bytes, from, to, 0, to - from) === 0;
  }

  /** Searches whole words; `flip` turns a search for clear bits into one for set bits. */
  #next(from: number, end: number, flip: number): number {
    if (from >= end) return end;
    let word = from >>> 5;
    let bits = (this.#words[word]! ^ flip) & (0xffffffff << (from & 31));
    const last = (end - 1) >>> 5;
    while (bits === 0) {
      word++;
      if (word > last) return end;
      bits = this.#words[word]! ^ flip;
    }
    return Math.min(word * 32 + (31 - Math.clz32(bits & -bits)), end);
  }
}

/** The bits of index's word that lie in [index, end). */
function maskOf(index: number, end: number): number {
  const low = index & 31;
  const high = Math.min(32, end - (index - low));
  return (high === 32 ? 0xffffffff : (1 << high) - 1) & (0xffffffff << low);
}

function popCount(bits: number): number {
  let count = bits - ((bits >>> 1) & 0x55555555);
  count = (count & 0x33333333) + ((count >>> 2) & 0x33333333);
  return (((count + (count >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}
