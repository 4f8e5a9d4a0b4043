/**
 * One fetch under way: the blocks, the reads that want their bytes, and what waits for them to be local. Its
 * life is fetcher.ts's.
 */
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE } from '../../store/block-ranges.ts';
import type { Completion } from '../../store/completion.ts';

/** Wants the bytes of a stretch of the disk as soon as they arrive. */
export interface Reader extends Completion {
  /** `data` is what the disk has at `offset`; called before `complete(0)`. */
  take(data: Buffer, offset: number): void;
  /** It has been answered, and wants nothing any more. */
  readonly over: boolean;
}

/** Waits for a stretch to be local. */
export interface LocalWaiter extends Completion {
  readonly over: boolean;
  /** A guest's partial write: the rest of its block is stored even when space is short. */
  readonly vital: boolean;
}

/**
 * One share of a fetch: only blocks that were absent when it was asked for. The others may hold a newer write
 * by now.
 */
interface Share<Who> {
  who: Who;
  first: number;
  end: number;
}

/** From so many shares on those that have been answered otherwise are sorted out. */
const MANY = 64;

export class Fetch {
  readonly first: number;
  readonly end: number;
  readonly data: Buffer;
  readonly background: boolean;
  /** Blocks that the origin cannot read. */
  readonly unread = new Set<number>();
  #readers: Share<Reader>[] = [];
  #waiters: Share<LocalWaiter>[] = [];

  constructor(first: number, end: number, bytes: number, background: boolean) {
    this.first = first;
    this.end = end;
    this.data = Buffer.allocUnsafeSlow(bytes);
    this.background = background;
  }

  /** The bytes of [first, end). */
  part(first: number, end: number): Buffer {
    return this.data.subarray((first - this.first) * BLOCK_SIZE, (end - this.first) * BLOCK_SIZE);
  }

  addReader(who: Reader, first: number, end: number): void {
    if (this.#readers.length >= MANY) this.#readers = this.#readers.filter((share) => !share.who.over);
    this.#readers.push({ who, first, end });
  }

  addWaiter(who: LocalWaiter, first: number, end: number): void {
    if (this.#waiters.length >= MANY) this.#waiters = this.#waiters.filter((share) => !share.who.over);
    this.#waiters.push({ who, first, end });
  }

  /** Nothing waits for it any more. */
  get unwanted(): boolean {
    const over = ({ who }: Share<Reader | LocalWaiter>): boolean => who.over;
    return !this.background && this.#readers.every(over) && this.#waiters.every(over);
  }

  /** Whether a block must be kept although space is short. */
  isVital(block: number): boolean {
    return this.#waiters.some(
      ({ who, first, end }) => who.vital && !who.over && first <= block && block < end,
    );
  }

  /** Gives the readers their shares, or EIO for what the origin cannot read; more may join afterwards. */
  serveReaders(): void {
    for (const { who, first, end } of this.#readers.splice(0)) {
      if (this.#hasUnread(first, end)) who.complete(Errno.EIO);
      else {
        who.take(this.part(first, end), first * BLOCK_SIZE);
        who.complete(0);
      }
    }
  }

  /** All that are left get the error. */
  fail(errno: number): void {
    for (const { who } of this.#readers.splice(0)) who.complete(errno);
    for (const { who } of this.#waiters.splice(0)) who.complete(errno);
  }

  /** The end. @param errno of a stretch: 0 when it is local now */
  finish(errno: (first: number, end: number) => number): void {
    this.serveReaders();
    for (const { who, first, end } of this.#waiters.splice(0)) who.complete(errno(first, end));
  }

  #hasUnread(first: number, end: number): boolean {
    for (const block of this.unread) if (first <= block && block < end) return true;
    return false;
  }
}
