/**
 * The times in which an origin cannot be reached: since when, why, when to try again, and what of it goes to
 * the log.
 *
 * Attempts begin soon and become rarer, each at a moment of its own (jitter), so that the many disks of a
 * host that comes back do not all knock at once. The log gets one line when the origin is lost, one for each
 * *other* reason that an attempt fails with, and one when it is back; a link that comes and goes gets no more
 * than one that stays away.
 */
import { log } from '../../log/log.ts';

const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5000;
/** A connection that lasted this long was a good one: what comes after it is another outage. */
const GOOD_MS = 30_000;
/** Reasons that are worth a line, an outage. */
const MOST_REASONS = 5;

export class Outage {
  /** For people; null: the origin can be reached. */
  since: Date | null = null;
  /** One line; null while the origin can be reached. */
  reason: string | null = null;
  readonly #where: string;
  #delay = FIRST_RETRY_MS;
  #said = new Set<string>();
  #saidLost = false;
  #beganAt = 0;
  #endedAt = Number.NEGATIVE_INFINITY;

  /** @param where names the origin in the log. */
  constructor(where: string) {
    this.#where = where;
  }

  /**
   * The origin cannot be reached. @param seconds for how long already, as far as is known. @returns ms until
   * the next attempt is due
   */
  begin(reason: string, seconds = 0): number {
    if (performance.now() - this.#endedAt > GOOD_MS) {
      this.#delay = FIRST_RETRY_MS;
      this.#said.clear();
    }
    this.since = new Date(Date.now() - seconds * 1000);
    this.#beganAt = performance.now() - seconds * 1000;
    this.reason = reason;
    this.#saidLost = this.#worthALine(reason);
    if (this.#saidLost)
      log.warning(
        `origin ${this.#where} is unreachable: ${reason}; what needs it waits, and it is tried again`,
        { id: 'origin-unreachable' },
      );
    return this.#nextDelay();
  }

  /** An attempt has failed, maybe the first thing to go wrong. @returns ms until the next one is due */
  failed(reason: string): number {
    if (this.since === null) return this.begin(reason);
    this.reason = reason;
    if (this.#worthALine(reason)) log.warning(`origin ${this.#where}: ${reason}`);
    return this.#nextDelay();
  }

  /** The origin can be reached. @param waiting how many requests waited for that */
  end(waiting: number): void {
    const seconds = (performance.now() - this.#beganAt) / 1000;
    if (this.#saidLost)
      log.info(
        `origin ${this.#where} is reachable again, after ${seconds.toFixed(1)} s; ${waiting} requests are sent again`,
        { id: 'origin-reachable' },
      );
    this.#saidLost = false;
    this.since = null;
    this.reason = null;
    this.#endedAt = performance.now();
  }

  #nextDelay(): number {
    const delay = this.#delay;
    this.#delay = Math.min(delay * 2, LAST_RETRY_MS);
    return delay * (0.5 + Math.random() / 2);
  }

  #worthALine(reason: string): boolean {
    if (this.#said.has(reason) || this.#said.size >= MOST_REASONS) return false;
    this.#said.add(reason);
    return true;
  }
}
