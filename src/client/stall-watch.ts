/**
 * Finds out that an origin has fallen silent although its connection stands: packets vanish, a process on the
 * way is stopped, a firewall has forgotten us. TCP alone says so after a quarter of an hour, or never.
 *
 * Silence is no proof: the origin's disk may be slow, or nothing was asked. So after QUIET_S without a byte
 * the origin is probed with a request that costs it nothing, and only if that, too, is followed by PROBE_S of
 * silence is the connection given up. A slow line is never silent for so long: its answers come bit by bit,
 * and each bit counts. A server that answers one request after the other keeps the probe waiting behind a
 * slow one; giving up on it again and again would get us nowhere, so the link that owns it grants more
 * `patience` each time that it was in vain (relocation/origin/link.ts).
 *
 * What is counted is turns of a timer, not the clock: a process that was stopped, or whose host was asleep,
 * finds its answers in the socket when it wakes, and raises no alarm.
 */
const TICK_MS = 1000;
/**
 * Seconds of silence, while something is under way, after which the origin is probed; and the same while
 * nothing is.
 */
const QUIET_S = 5;
const IDLE_S = 15;
/** Seconds that the probe may take, times the patience. */
const PROBE_S = 5;

export interface StallWatchOptions {
  /** From 1 on: how many times longer than usual a probe may take. */
  patience: number;
  /** Something is under way. */
  waiting: () => boolean;
  /** Sends something that is answered at once, or nearly so. */
  probe: () => void;
  /** The silence has lasted too long. @param seconds of it */
  stalled: (seconds: number) => void;
}

export class StallWatch {
  readonly #options: StallWatchOptions;
  readonly #timer: NodeJS.Timeout;
  /** Turns since something was received. */
  #quiet = 0;
  /** At which of them the probe was sent; 0: none was. */
  #probedAt = 0;

  constructor(options: StallWatchOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#tick(), TICK_MS).unref();
  }

  /** Something has been received. */
  heard(): void {
    this.#quiet = 0;
    this.#probedAt = 0;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const { patience, waiting, probe, stalled } = this.#options;
    this.#quiet += 1;
    if (this.#probedAt === 0) {
      if (this.#quiet < (waiting() ? QUIET_S : IDLE_S)) return;
      this.#probedAt = this.#quiet;
      probe();
    } else if (this.#quiet - this.#probedAt >= PROBE_S * patience) {
      this.stop();
      stalled(this.#quiet);
    }
  }
}
