/**
 * A cap on the rate of the background copy, around the pace that it would have without one.
 *
 * It is a bucket: tokens (bytes) flow in at the rate that is allowed, up to `BURST_SECONDS` of it; a chunk
 * may go out while there are any, and takes as many as it has bytes, so that the bucket may owe some. Over
 * any time no more goes out than the rate allows, but for one burst and one chunk.
 */
import type { Pace } from './pace.ts';

const BURST_SECONDS = 0.1;
/** A chunk is this part of a second's bytes at most, so that a slow rate is no row of bursts. */
const CHUNKS_A_SECOND = 8;
const SMALLEST_CHUNK = 64 * 1024;

export class RateLimit implements Pace {
  readonly #within: Pace;
  readonly #clock: () => number;
  /** Bytes a millisecond; Infinity: no cap. */
  #rate = Number.POSITIVE_INFINITY;
  #tokens = 0;
  /** When the tokens were counted last. */
  #at: number;

  /** @param clock milliseconds, as `performance.now()` */
  constructor(within: Pace, clock: () => number = () => performance.now()) {
    this.#within = within;
    this.#clock = clock;
    this.#at = clock();
  }

  /** @param megabits Mbit/s; null: no cap */
  limit(megabits: number | null): void {
    this.#rate = megabits === null ? Number.POSITIVE_INFINITY : (megabits * 1e6) / 8 / 1000;
    this.#tokens = 0;
    this.#at = this.#clock();
  }

  get chunk(): number {
    const share = (this.#rate * 1000) / CHUNKS_A_SECOND;
    const whole = Math.floor(share / SMALLEST_CHUNK) * SMALLEST_CHUNK;
    return Math.min(this.#within.chunk, Math.max(whole, SMALLEST_CHUNK));
  }

  get open(): boolean {
    return this.#within.open && this.#available() >= 0;
  }

  get reopensAt(): number | null {
    if (!this.#within.open) return this.#within.reopensAt;
    if (!Number.isFinite(this.#rate)) return null;
    // Nothing may be owed any more since the bucket was found closed: then it is open now.
    const owed = Math.max(-this.#available(), 0);
    return this.#at + owed / this.#rate;
  }

  sent(bytes: number): void {
    if (Number.isFinite(this.#rate)) this.#tokens = this.#available() - bytes;
    this.#within.sent(bytes);
  }

  answered(bytes: number, elapsed: number, now: number): void {
    this.#within.answered(bytes, elapsed, now);
  }

  failed(bytes: number): void {
    this.#within.failed(bytes);
  }

  /** Tokens now; fewer than none are owed. */
  #available(): number {
    if (!Number.isFinite(this.#rate)) return 0;
    const now = this.#clock();
    const most = this.#rate * 1000 * BURST_SECONDS;
    this.#tokens = Math.min(this.#tokens + (now - this.#at) * this.#rate, most);
    this.#at = now;
    return this.#tokens;
  }
}
