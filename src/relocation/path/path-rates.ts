/** How fast a path is, by the answers that come over it. */

/** So many answers tell the rate of a burst. */
const ANSWERS_OF_BURST = 3;

/**
 * The highest rate at which answers have come within a part of a round trip, bytes a ms. While the window is
 * small they come in a burst once a round trip, as fast as the line is.
 */
export class BurstRate {
  #arrivals: { at: number; bytes: number }[] = [];
  #most: number | null = null;

  /**
   * @param span ms that a burst is looked at, if it has enough answers. @returns the rate; null: too few
   * have come
   */
  delivered(bytes: number, now: number, span: number): number | null {
    this.#arrivals.push({ at: now, bytes });
    let drop = 0;
    while (this.#arrivals.length - drop > ANSWERS_OF_BURST && this.#arrivals[drop]!.at <= now - span)
      drop += 1;
    if (drop > 0) this.#arrivals.splice(0, drop);
    const first = this.#arrivals[0]!;
    if (this.#arrivals.length < ANSWERS_OF_BURST || now === first.at) return this.#most;
    const since = this.#arrivals.reduce((sum, each) => sum + each.bytes, 0) - first.bytes;
    const rate = since / (now - first.at);
    this.#most = Math.max(this.#most ?? 0, rate);
    return this.#most;
  }

  forget(): void {
    this.#arrivals = [];
    this.#most = null;
  }
}

/**
 * The rate at which answers come, bytes a ms: what was delivered while an answer was on its way, over the
 * time that it was. So what was held up and comes all at once is no high rate.
 */
export class DeliveryRate {
  #bytes = 0;
  /** What had been delivered when, the oldest first. */
  #past: { at: number; bytes: number }[] = [];
  #lately = 0;
  #before = 0;
  #since = 0;

  /** The highest of late. */
  get most(): number {
    return Math.max(this.#lately, this.#before);
  }

  /** @param memory how long a rate is remembered, at least, ms */
  delivered(bytes: number, elapsed: number, now: number, memory: number): void {
    this.#bytes += bytes;
    const sentAt = now - elapsed;
    let index = 0;
    while (index + 1 < this.#past.length && this.#past[index + 1]!.at <= sentAt) index += 1;
    if (index > 64) {
      this.#past = this.#past.slice(index);
      index = 0;
    }
    const then = this.#past[index];
    const known = then !== undefined && then.at <= sentAt ? then.bytes : 0;
    const sample = elapsed > 0 ? (this.#bytes - known) / elapsed : 0;
    if (now - this.#since > memory) {
      this.#before = this.#lately;
      this.#lately = sample;
      this.#since = now;
    } else this.#lately = Math.max(this.#lately, sample);
    const last = this.#past.at(-1);
    if (last === undefined || now - last.at >= 1) this.#past.push({ at: now, bytes: this.#bytes });
    else last.bytes = this.#bytes;
  }
}
