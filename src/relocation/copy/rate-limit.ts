/**
 * A cap on the rate at which a disk comes, around the pace that its copy would have without one.
 *
 * It is a bucket: tokens (bytes) flow in at the rate that is allowed, up to `BURST_SECONDS` of it; a chunk
 * may go out while there are any, and takes as many as it has bytes, so that the bucket may owe some. Over
 * any time no more goes out than the rate allows, but for one burst and one chunk.
 *
 * What clients ask for takes tokens as well, so that the cap is one on all that comes; but nothing here holds
 * it back. A client that takes more than the rate leaves the copy a debt, of one second's tokens at most.
 */
import type { Pace } from './pace.ts';

const BURST_SECONDS = 0.05;
/**
 * A chunk is this part of a second's bytes at most, so that what is sent in a second differs little from the
 * rate, and a slow rate is no row of bursts.
 */
const CHUNKS_A_SECOND = 40;
const GRAIN = 4096;
const MOST_OWED_SECONDS = 1;

export class RateLimit implements Pace {
  readonly #within: Pace;
  readonly #clock: () => number;
  readonly #demanded: () => number;
  /** Bytes a millisecond; Infinity: no cap. */
  #rate = Number.POSITIVE_INFINITY;
  #tokens = 0;
  /** When the tokens were counted last, and how many bytes had been demanded then. */
  #at: number;
  #demandedThen = 0;

  /**
   * @param demanded bytes that clients have had fetched so far
   * @param clock milliseconds, as `performance.now()`
   */
  constructor(within: Pace, demanded: () => number = () => 0, clock: () => number = () => performance.now()) {
    this.#within = within;
    this.#demanded = demanded;
    this.#clock = clock;
    this.#at = clock();
  }

  /**
   * What is owed stays owed: a cap that is dealt out anew every moment would else let a chunk more out each
   * time.
   * @param bits a second; 0: nothing; null: no cap
   */
  limit(bits: number | null): void {
    this.#count();
    this.#rate = bits === null ? Number.POSITIVE_INFINITY : bits / 8 / 1000;
    if (bits === null) this.#tokens = 0;
  }

  get chunk(): number {
    const share = Math.floor((this.#rate * 1000) / CHUNKS_A_SECOND / GRAIN) * GRAIN;
    return Math.min(this.#within.chunk, Math.max(share, GRAIN));
  }

  get open(): boolean {
    return this.#within.open && !this.#holds;
  }

  /** More would go out if the cap let it. */
  get held(): boolean {
    return this.#within.open && this.#holds;
  }

  get reopensAt(): number | null {
    if (!this.#within.open) return this.#within.reopensAt;
    if (this.#rate === 0 || !Number.isFinite(this.#rate)) return null;
    // Nothing may be owed any more since the bucket was found closed: then it is open now.
    const owed = Math.max(-this.#count(), 0);
    return this.#at + owed / this.#rate;
  }

  sent(bytes: number): void {
    if (Number.isFinite(this.#rate)) this.#tokens = this.#count() - bytes;
    this.#within.sent(bytes);
  }

  answered(bytes: number, elapsed: number, now: number): void {
    this.#within.answered(bytes, elapsed, now);
  }

  failed(bytes: number): void {
    this.#within.failed(bytes);
  }

  get #holds(): boolean {
    return this.#rate === 0 || this.#count() < 0;
  }

  /** @returns tokens now; fewer than none are owed */
  #count(): number {
    const now = this.#clock();
    const demanded = this.#demanded();
    if (Number.isFinite(this.#rate)) {
      const second = this.#rate * 1000;
      const come = Math.min(this.#tokens + (now - this.#at) * this.#rate, second * BURST_SECONDS);
      const left = come - (demanded - this.#demandedThen);
      // What the copy itself owes is a chunk, and is never forgiven.
      this.#tokens = Math.max(left, Math.min(come, -second * MOST_OWED_SECONDS));
    }
    this.#at = now;
    this.#demandedThen = demanded;
    return this.#tokens;
  }
}
