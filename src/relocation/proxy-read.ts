/**
 * One read of a proxy that finds blocks absent: present stretches come from the image, absent ones from the fetches that bring them, in any
 * number and order. It completes when all have come. What each block is, is decided once, when the read begins: a write that
 * overtakes it is a concurrent one.
 */
import type { Completion } from '../store/completion.ts';
import type { Image } from '../store/image.ts';
import { BLOCK_SIZE, type PresentMap } from '../store/present-map.ts';
import type { Fetcher, Reader } from './fetcher.ts';
import { guestErrno } from './guest-errno.ts';

export class ProxyRead implements Reader {
  readonly #into: Buffer;
  readonly #offset: number;
  readonly #done: Completion;
  /** One for `start` itself, so that answers that come at once do not complete it early. */
  #pieces = 1;
  #errno = 0;

  constructor(into: Buffer, offset: number, done: Completion) {
    this.#into = into;
    this.#offset = offset;
    this.#done = done;
  }

  start(image: Image, map: PresentMap, fetcher: Fetcher): void {
    const end = this.#offset + this.#into.length;
    const endBlock = Math.ceil(end / BLOCK_SIZE);
    let block = Math.floor(this.#offset / BLOCK_SIZE);
    const absent: { first: number; end: number }[] = [];
    while (block < endBlock) {
      if (map.has(block)) {
        const runEnd = map.nextAbsent(block, endBlock);
        const from = Math.max(block * BLOCK_SIZE, this.#offset);
        const to = Math.min(runEnd * BLOCK_SIZE, end);
        this.#pieces++;
        image.read(this.#into.subarray(from - this.#offset, to - this.#offset), from, this);
        block = runEnd;
      } else {
        const runEnd = map.nextPresent(block, endBlock);
        absent.push({ first: block, end: runEnd });
        block = runEnd;
      }
    }
    for (const run of absent) {
      // The answers never come within the call: a fetch is the network.
      this.#pieces += fetcher.read(run.first, run.end, this);
    }
    this.complete(0);
  }

  take(data: Buffer, offset: number): void {
    const start = offset - this.#offset;
    // The first and last block of the read may be wanted in part.
    if (start < 0) data.copy(this.#into, 0, -start);
    else data.copy(this.#into, start, 0, this.#into.length - start);
  }

  complete(errno: number): void {
    if (this.#errno === 0) this.#errno = guestErrno(errno);
    if (--this.#pieces === 0) this.#done.complete(this.#errno);
  }
}
