/**
 * Reads of what the page cache does not hold.
 *
 * The thread pool costs two switches of threads a read: nothing beside a seek, as much as the read itself on
 * flash. So short reads of a fast disk wait on the loop. They are gathered for as long as requests are at
 * hand, and the kernel is told of all of them (WILLNEED) before the first is waited for: the disk works on
 * them at once, with no thread for each.
 *
 * How fast the disk is, each read tells, wherever it was made: while the mean of the last few is above
 * FAST_MS all go to the pool, whose reads bring the mean down again when the disk has recovered. A batch
 * holds the loop for BATCH_MS and one read at most.
 */
import { readSync } from 'node:fs';
import { willNeedNow } from '../../system/syscalls.ts';
import type { Completion } from '../completion.ts';

/** Longer reads lose nothing in the pool. Bytes. */
const SHORT = 32 * 1024;
/** Flash needs 0.05 to 0.2 (and the pool as much), a disk that turns 5 to 10. */
const FAST_MS = 0.5;
const BATCH_MS = 2;
/** Weight of one read in the mean. */
const NEWEST = 1 / 8;

interface Waiting {
  into: Buffer;
  from: number;
  position: number;
  done: Completion;
}

/** Reads the rest, from `from` on, in the thread pool. */
type PoolRead = (into: Buffer, from: number, position: number, done: Completion) => void;

export class ColdReads {
  readonly #fd: number;
  readonly #inPool: PoolRead;
  /** Of a short read. Nothing is known of the disk yet: the pool is to find out. */
  #meanMs = 2 * FAST_MS;
  #waiting: Waiting[] = [];
  readonly #endOfTick = () => this.endBatch();

  constructor(fd: number, inPool: PoolRead) {
    this.#fd = fd;
    this.#inPool = inPool;
  }

  /** Fills `into`, of which `from` bytes are there, from `position` + `from`. */
  read(into: Buffer, from: number, position: number, done: Completion): void {
    if (into.length > SHORT) {
      this.#inPool(into, from, position, done);
      return;
    }
    // `endBatch` comes earlier where the end of a batch is known.
    if (this.#waiting.length === 0) process.nextTick(this.#endOfTick);
    this.#waiting.push({ into, from, position, done });
  }

  /** No more requests are at hand for now: those gathered are read. */
  endBatch(): void {
    if (this.#waiting.length === 0) return;
    const batch = this.#waiting;
    this.#waiting = [];
    if (batch.length > 1 && this.#fast) {
      for (const { into, position } of batch) willNeedNow(this.#fd, position, into.length);
    }
    const began = performance.now();
    let now = began;
    for (const one of batch) {
      if (this.#fast && now - began < BATCH_MS) now = this.#readOne(one, now);
      else this.#readInPool(one);
    }
  }

  get #fast(): boolean {
    return this.#meanMs <= FAST_MS;
  }

  #took(milliseconds: number): void {
    this.#meanMs += (milliseconds - this.#meanMs) * NEWEST;
  }

  /** @returns the time after it */
  #readOne(one: Waiting, before: number): number {
    const { into, from, position, done } = one;
    let count = 0;
    try {
      count = readSync(this.#fd, into, from, into.length - from, position + from);
    } catch {
      // The pool meets the same error, and reports it.
    }
    const after = performance.now();
    this.#took(after - before);
    if (from + count === into.length) done.complete(0);
    else this.#inPool(into, from + count, position, done);
    return after;
  }

  #readInPool({ into, from, position, done }: Waiting): void {
    const before = performance.now();
    this.#inPool(into, from, position, {
      complete: (errno) => {
        this.#took(performance.now() - before);
        done.complete(errno);
      },
    });
  }
}
