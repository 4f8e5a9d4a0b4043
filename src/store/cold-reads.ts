/**
 * Reads of what the page cache does not hold.
 *
 * The thread pool costs two thread switches a read: nothing beside a disk's seek, as much as the read itself on flash. So short
 * reads wait for a fast disk on the loop. They are gathered for as long as requests are at hand, and the kernel is told of all of them
 * (WILLNEED) before the first is waited for: the disk works on them at once, with no thread for each.
 *
 * A disk counts as fast when the pool's last short read was, and Pace sends the next ones to the pool as soon as one on the loop was not.
 * Nobody else waits for longer than a batch may take.
 */
import { readSync } from 'node:fs';
import type { Completion } from './completion.ts';
import { Pace } from './pace.ts';
import { willNeedNow } from './syscalls.ts';

/** Longer reads lose nothing in the pool. Bytes. */
const SHORT = 32 * 1024;
/** A read in the pool, its waiting for a thread included, that a fast disk keeps below. */
const FAST_MS = 2;
const BATCH_MS = 2;

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
  readonly #pace = new Pace();
  /** What the last short read in the pool took. */
  #poolMs = Number.POSITIVE_INFINITY;
  #waiting: Waiting[] = [];

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
    // The tick's end is the end of the requests that came in together.
    if (this.#waiting.length === 0) process.nextTick(() => this.#readAll());
    this.#waiting.push({ into, from, position, done });
  }

  #readAll(): void {
    const batch = this.#waiting;
    this.#waiting = [];
    const began = performance.now();
    const fast = this.#poolMs <= FAST_MS;
    if (fast && batch.length > 1 && this.#pace.mayBlock(began)) {
      for (const { into, position } of batch) willNeedNow(this.#fd, position, into.length);
    }
    let now = began;
    for (const one of batch) {
      if (fast && now - began < BATCH_MS && this.#pace.mayBlock(now)) now = this.#readOne(one, now);
      else this.#readInPool(one);
    }
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
    this.#pace.measured(before, after, into.length);
    if (from + count === into.length) done.complete(0);
    else this.#inPool(into, from + count, position, done);
    return after;
  }

  #readInPool({ into, from, position, done }: Waiting): void {
    const before = performance.now();
    this.#inPool(into, from, position, {
      complete: (errno) => {
        this.#poolMs = performance.now() - before;
        done.complete(errno);
      },
    });
  }
}
