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
 * On a slow line bytes are time: 128 KiB are a quarter of a second at 4 Mbit/s, and the other disks of the
 * host keep as much there, because each takes the others' queue for the empty path. So there the queue is
 * limited in milliseconds, chunks are smaller, and two of them are the least: one on the line, one behind it.
 * An answer that has waited out an outage says nothing of the path: the window begins anew.
 *
 * Routes change, so now and then (`PROBE_INTERVAL_MS`) the copy pauses until nothing is in flight and
 * measures the empty path anew.
 */
import type { Pace } from './pace.ts';

const FIRST = 128 * 1024;
const MAXIMUM = 32 * 1024 * 1024;
/**
 * Where a line takes longer than CHUNK_MS for that, it is as many grains as go out in that time, one at
 * least.
 */
const SMALLEST_CHUNK = 64 * 1024;
const GRAIN = 16 * 1024;
const CHUNK_MS = 30;
const LARGEST_CHUNK = 1024 * 1024;
/**
 * Queue that we want on the path, bytes: enough to keep it busy, little enough to wait for (at 100 Mbit/s 4
 * to 9 ms).
 */
const QUEUE_LOW = 48 * 1024;
const QUEUE_HIGH = 112 * 1024;
/** The same on a slow line, ms of it. */
const QUEUE_LOW_MS = 12;
const QUEUE_HIGH_MS = 28;
/** An answer that took longer, and four times as long as on the empty path, has waited out an outage. */
const OUTAGE_MS = 5000;
/** What is learned of the path is acted upon after so long at the latest. */
const LONGEST_ROUND_MS = 2000;
const PROBE_INTERVAL_MS = 15_000;

export class BackgroundWindow implements Pace {
  /** It opens with an answer only. */
  readonly reopensAt = null;
  #limit = FIRST;
  #smallest = SMALLEST_CHUNK;
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
    return Math.min(Math.max(share, this.#smallest), LARGEST_CHUNK);
  }

  /** Bytes that may be in flight. */
  get limit(): number {
    return this.#limit;
  }

  get open(): boolean {
    if (this.#probing) return this.#inFlight === 0;
    return this.#hasRoom;
  }

  get #hasRoom(): boolean {
    return this.#inFlight + this.#smallest <= this.#limit;
  }

  sent(bytes: number): void {
    this.#inFlight += bytes;
    this.#filled ||= !this.#hasRoom;
  }

  answered(bytes: number, elapsed: number, now: number): void {
    this.#inFlight -= bytes;
    if (elapsed > OUTAGE_MS && elapsed > 4 * this.#base) {
      this.#beginAnew(now);
      return;
    }
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
    /** Bytes a ms that come as it is now. */
    const rate = this.#limit / this.#roundShortest;
    const queue = this.#limit - rate * this.#base;
    const low = Math.min(QUEUE_LOW, rate * QUEUE_LOW_MS);
    const high = Math.min(QUEUE_HIGH, rate * QUEUE_HIGH_MS);
    if (this.#doubling && queue < low) {
      if (this.#filled) this.#limit *= 2;
    } else {
      this.#doubling = false;
      if (queue < low && this.#filled) this.#limit += this.#smallest;
      else if (queue > high) this.#limit -= Math.max(this.#smallest, (queue - high) / 2);
    }
    const grains = Math.floor((rate * CHUNK_MS) / GRAIN) * GRAIN;
    this.#smallest = Math.min(Math.max(grains, GRAIN), SMALLEST_CHUNK);
    this.#limit = Math.min(Math.max(this.#limit, 2 * this.#smallest), MAXIMUM);
  }

  #beginAnew(now: number): void {
    this.#limit = 2 * this.#smallest;
    this.#doubling = true;
    this.#probing = false;
    this.#startRound(now);
  }

  #startRound(now: number): void {
    this.#roundEnd = now + Math.min(this.#roundShortestOrBase(), LONGEST_ROUND_MS);
    this.#roundShortest = Number.POSITIVE_INFINITY;
    this.#filled = !this.#hasRoom;
  }

  #roundShortestOrBase(): number {
    return Number.isFinite(this.#roundShortest) ? this.#roundShortest : this.#base;
  }
}
