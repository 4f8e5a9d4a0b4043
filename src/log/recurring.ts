/**
 * What a client, a peer or an origin can make happen again and again: told when it begins, and how often it
 * was met when it is over. A disk that fails and a peer that tries every five seconds then cost two lines and
 * no megabytes.
 *
 * It is over when `quietMs` have passed without it: longer than the rarest of retries.
 */
import type { LogFields, LogLevel } from './entry.ts';
import { log } from './log.ts';

const QUIET_MS = 300_000;
/** Kinds that are told apart at a time. What is more than that comes from too many, and is counted as one. */
const MOST_KINDS = 64;

interface State {
  message: string;
  fields: LogFields;
  /** How often it was met since it was told. */
  more: number;
  /** The last time, ms of `performance.now()`. */
  at: number;
}

export class Recurring {
  readonly #level: LogLevel;
  readonly #quietMs: number;
  readonly #about: LogFields;
  readonly #states = new Map<string, State>();
  #timer: NodeJS.Timeout | null = null;

  constructor(level: LogLevel, quietMs = QUIET_MS, about: LogFields = {}) {
    this.#about = about;
    this.#level = level;
    this.#quietMs = quietMs;
  }

  /** It has been met. @param kind what is the same when it is met again; default: the message */
  met(message: string, { kind = message, ...more }: { kind?: string; fields?: LogFields } = {}): void {
    const fields = { ...this.#about, ...more.fields };
    const own = this.#states.has(kind) || this.#states.size < MOST_KINDS;
    const key = own ? kind : '';
    const known = this.#states.get(key);
    if (known !== undefined) {
      known.more += 1;
      known.at = performance.now();
      return;
    }
    log[this.#level](`${message} (the same again is counted, not logged)`, fields);
    this.#states.set(key, { message, fields, more: 0, at: performance.now() });
    this.#timer ??= setInterval(() => this.#endThoseOver(), this.#quietMs / 4).unref();
  }

  #endThoseOver(): void {
    const over = performance.now() - this.#quietMs;
    for (const [key, { message, fields, more, at }] of this.#states) {
      if (at > over) continue;
      this.#states.delete(key);
      if (more > 0) log[this.#level](`${more} times more, and it seems over now: ${message}`, fields);
    }
    if (this.#states.size > 0 || this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }
}
