/**
 * How many bytes the background copy may have in flight.
 *
 * Too few leave the line idle; too many wait in a queue somewhere on the path, and a guest's cold read waits
 * behind them: the C xNBD, which filled the line, answered cold reads after 337 ms on a line of 50 ms. What
 * is in flight beyond bandwidth x delay is queue, so the window is steered by delay, as TCP Vegas does: the
 * shortest round trip seen is what the path takes when empty; what the present round trips take more, times
 * the rate, is queue. Below `QUEUE_LOW` the window grows, above `QUEUE_HIGH` it shrinks, once a round trip.
 * At first it doubles until a queue shows. A window that was not filled has found nothing out, and does not
 * grow: what holds the copy back then is something else, and when that ends it must not flood the path.
 *
 * Routes change, so now and then (`PROBE_INTERVAL_MS`) the copy pauses until nothing is in flight and
 * measures the empty path anew.
 */
import type { Pace } from './pace.ts';

const MINIMUM = 128 * 1024;
const MAXIMUM = 32 * 1024 * 1024;
const SMALLEST_CHUNK = 64 * 1024;
const LARGEST_CHUNK = 1024 * 1024;
/**
 * Queue that we want on the path, bytes: enough to keep it busy, little enough to wait for (at 100 Mbit/s 4
 * to 9 ms).
 */
const QUEUE_LOW = 48 * 1024;
const QUEUE_HIGH = 112 * 1024;
const PROBE_INTERVAL_MS = 15_000;

export class BackgroundWindow implements Pace {
  /** It opens with an answer only. */
  readonly reopensAt = null;
  #limit = MINIMUM;
  #inFlight = 0;
  #doubling = true;
  /** Shortest round trip since the last probe, ms. */
  #base = Number.POSITIVE_INFINITY;
  #roundShortest = Number.POSITIVE_INFINITY;
  #roundEnd = 0;
  /** In this round there was more to send than the window let out. */
  #filled = false;
  #probeAt = Number.POSITIVE_INFINITY;
  #probing = false;

  /**
   * Bytes that a chunk should have now: small where the line is slow, so that a guest's read does not wait
   * behind a long one.
   */
  get chunk(): number {
    const share = Math.floor(this.#limit / 8 / SMALLEST_CHUNK) * SMALLEST_CHUNK;
    return Math.min(Math.max(share, SMALLEST_CHUNK), LARGEST_CHUNK);
  }

  get open(): boolean {
    if (this.#probing) return this.#inFlight === 0;
    return this.#hasRoom;
  }

  get #hasRoom(): boolean {
    return this.#inFlight + SMALLEST_CHUNK <= this.#limit;
  }

  sent(bytes: number): void {
    this.#inFlight += bytes;
    this.#filled ||= !this.#hasRoom;
  }

  answered(bytes: number, elapsed: number, now: number): void {
    this.#inFlight -= bytes;
    if (this.#probing) {
      this.#base = elapsed;
      this.#probing = false;
      this.#probeAt = now + PROBE_INTERVAL_MS;
      this.#startRound(now);
      return;
    }
    if (this.#probeAt === Number.POSITIVE_INFINITY) this.#probeAt = now + PROBE_INTERVAL_MS;
    this.#base = Math.min(this.#base, elapsed);
    this.#roundShortest = Math.min(this.#roundShortest, elapsed);
    if (now < this.#roundEnd) return;
    this.#adjust();
    this.#startRound(now);
    if (now >= this.#probeAt) this.#probing = true;
  }

  failed(bytes: number): void {
    this.#inFlight -= bytes;
    this.#probing = false;
  }

  #adjust(): void {
    const queue = this.#limit * (1 - this.#base / this.#roundShortest);
    if (this.#doubling && queue < QUEUE_LOW) {
      if (this.#filled) this.#limit *= 2;
    } else {
      this.#doubling = false;
      if (queue < QUEUE_LOW && this.#filled) this.#limit += SMALLEST_CHUNK;
      else if (queue > QUEUE_HIGH) this.#limit -= Math.max(SMALLEST_CHUNK, (queue - QUEUE_HIGH) / 2);
    }
    this.#limit = Math.min(Math.max(this.#limit, MINIMUM), MAXIMUM);
  }

  #startRound(now: number): void {
    this.#roundEnd = now + this.#roundShortestOrBase();
    this.#roundShortest = Number.POSITIVE_INFINITY;
    this.#filled = !this.#hasRoom;
  }

  #roundShortestOrBase(): number {
    return Number.isFinite(this.#roundShortest) ? this.#roundShortest : this.#base;
  }
}
