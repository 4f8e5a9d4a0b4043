/**
 * SHA-256 of stretches of a disk: what an origin answers to HASH, and what the destination compares that with
 * (docs/safety.md, "Self-check").
 *
 * A whole disk is asked for this way, stretch after stretch, while guests are being served. So no more than
 * two stretches are read and digested at a time, the others wait in order; and the digesting is done in the
 * thread pool, not on the loop.
 */
import { webcrypto } from 'node:crypto';
import { Errno, HASH_MAX } from '../nbd/constants.ts';
import type { Completion } from '../store/completion.ts';

const AT_ONCE = 2;

/** Fills the whole of `into` with what the disk has at `offset`. */
export type ReadDisk = (into: Buffer, offset: number, done: Completion) => void;

/** A digest that is wanted: of which stretch, and for which owner: HASH_MAX bytes at most. */
export interface DigestRequest extends Completion {
  readonly offset: number;
  readonly length: number;
}

type Space = Buffer<ArrayBuffer>;

interface Job {
  into: Buffer;
  request: DigestRequest;
  owner: object | null;
}

export class Digests {
  readonly #read: ReadDisk;
  #waiting: Job[] = [];
  #running = 0;
  /** Kept while there is work. */
  #buffers: Space[] = [];

  constructor(read: ReadDisk) {
    this.#read = read;
  }

  /** Puts the SHA-256 of a stretch, 32 bytes, into `into`, which stays ours until completion. */
  digest(into: Buffer, request: DigestRequest, owner: object | null = null): void {
    this.#waiting.push({ into, request, owner });
    if (this.#running < AT_ONCE) this.#next();
  }

  /** This owner waits no more for what it asked for: what has not begun is never completed. */
  forget(owner: object): void {
    if (this.#waiting.length > 0) this.#waiting = this.#waiting.filter((job) => job.owner !== owner);
  }

  #next(): void {
    const job = this.#waiting.shift();
    if (job === undefined) {
      if (this.#running === 0) this.#buffers = [];
      return;
    }
    this.#running += 1;
    const { offset, length } = job.request;
    const buffer = this.#buffers.pop() ?? Buffer.allocUnsafeSlow(HASH_MAX);
    const data = buffer.subarray(0, length);
    this.#read(data, offset, { complete: (errno) => void this.#arrived(job, buffer, data, errno) });
  }

  async #arrived(job: Job, buffer: Space, data: Space, errno: number): Promise<void> {
    let outcome = errno;
    if (errno === 0) {
      try {
        Buffer.from(await webcrypto.subtle.digest('SHA-256', data)).copy(job.into);
      } catch {
        outcome = Errno.ENOMEM;
      }
    }
    this.#buffers.push(buffer);
    job.request.complete(outcome);
    // The others first: reading from the page cache takes its time on the loop.
    setImmediate(() => {
      this.#running -= 1;
      this.#next();
    });
  }
}
