/**
 * READs of a lease holder that none of its clients waits for: the background copy's, where both ends know the
 * mark (Feature.BACKGROUND).
 *
 * A proxy keeps as many of them under way as its line holds, so they come by the hundred, and a read that a
 * guest waits for comes behind them. Here it passes them: they stay requests, of which each costs next to
 * nothing, and go to the disk only as fast as their answers leave. What is ahead of the line at any time,
 * read or being read, is AHEAD_BYTES at most; and even those answers wait until nothing else is to be sent
 * (ReplyWriter.sendLater).
 */
import type { Request } from './request.ts';

/** Enough for a disk to have several reads at once, and to be read at some GB/s. */
const AHEAD_BYTES = 512 * 1024;

export interface BackgroundReadsOptions {
  /** Hands a request to the disk; `finished` follows, at once or later. */
  submit: (request: Request) => void;
  /** Bytes that wait to be sent; null: the socket takes no more for now. */
  unsent: () => number | null;
}

export class BackgroundReads {
  readonly #options: BackgroundReadsOptions;
  /** From `#first` on. */
  #waiting: Request[] = [];
  #first = 0;
  /** Bytes that the disk is reading. */
  #readingBytes = 0;
  #proceeding = false;

  constructor(options: BackgroundReadsOptions) {
    this.#options = options;
  }

  get waiting(): number {
    return this.#waiting.length - this.#first;
  }

  add(request: Request): void {
    this.#waiting.push(request);
  }

  /** The disk has answered. */
  finished(request: Request): void {
    if (request.ahead) this.#readingBytes -= request.length;
  }

  /** Reads as many as may be ahead of the line now. May be called from within `submit`. */
  proceed(): void {
    if (this.#proceeding) return;
    this.#proceeding = true;
    while (this.#first < this.#waiting.length && this.#hasRoom) {
      const request = this.#waiting[this.#first]!;
      this.#first += 1;
      this.#readingBytes += request.length;
      request.ahead = true;
      this.#options.submit(request);
    }
    if (this.#first === this.#waiting.length || this.#first > 1024) {
      this.#waiting = this.#waiting.slice(this.#first);
      this.#first = 0;
    }
    this.#proceeding = false;
  }

  /** Takes back those that the disk has not been asked for: the connection is gone, or goes elsewhere. */
  takeBack(): Request[] {
    const waiting = this.#waiting.slice(this.#first);
    this.#waiting = [];
    this.#first = 0;
    return waiting;
  }

  get #hasRoom(): boolean {
    const unsent = this.#options.unsent();
    return unsent !== null && unsent + this.#readingBytes < AHEAD_BYTES;
  }
}
