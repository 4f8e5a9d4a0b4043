/**
 * How long clients' requests wait for the origin.
 *
 * Without a limit they wait for as long as it takes, as on a hard NFS mount: a guest notices nothing but
 * time. With one, a request that has waited so long gets EIO, and no other does. A request that waits here is
 * told so (`expire`), answers then, and drops what comes for it afterwards. Requests that
 * find their blocks present never come here.
 *
 * The limit may be changed at any time, and holds for requests that wait already.
 */
import { log } from '../../log/log.ts';

/** One request that waits. */
export interface Wait {
  /** It waits no more. */
  end(): void;
}

interface Waiting {
  since: number;
  expire: () => void;
  letGo: (() => void) | undefined;
}

export class GuestWaits {
  /** Told after some have been given up. */
  onExpired: (() => void) | null = null;
  #seconds: number | null;
  /** The longest waiting first. */
  readonly #waiting = new Set<Waiting>();
  #timer: NodeJS.Timeout | null = null;
  /** Requests given up since the log was told; it is told of the first of a series. */
  #expired = 0;

  /** @param seconds the limit; null: none */
  constructor(seconds: number | null) {
    this.#seconds = seconds;
  }

  /** The limit; null: none. */
  get seconds(): number | null {
    return this.#seconds;
  }

  /** Requests that wait now. */
  get count(): number {
    return this.#waiting.size;
  }

  /** Changes the limit, for those that wait already, too. */
  limit(seconds: number | null): void {
    this.#seconds = seconds;
    this.#arm();
  }

  /**
   * A request begins to wait. @param expire called at most once, when it has waited too long and has not been
   * ended. @param letGo of a request that changes nothing: it is to be answered with ESHUTDOWN, because
   * another process will be asked again
   */
  begin(expire: () => void, letGo?: () => void): Wait {
    const waiting: Waiting = { since: performance.now(), expire, letGo };
    this.#waiting.add(waiting);
    if (this.#timer === null) this.#arm();
    return {
      end: () => {
        this.#waiting.delete(waiting);
        if (this.#waiting.size === 0) this.#expired = 0;
      },
    };
  }

  /** Another process will be asked again: those that can be let go wait no more. */
  letGo(): void {
    for (const waiting of this.#waiting) {
      if (waiting.letGo === undefined) continue;
      this.#waiting.delete(waiting);
      waiting.letGo();
    }
    this.onExpired?.();
  }

  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const [oldest] = this.#waiting;
    if (this.#seconds === null || oldest === undefined) return;
    const due = oldest.since + this.#seconds * 1000 - performance.now();
    this.#timer = setTimeout(() => this.#expireThoseDue(), Math.max(due, 0)).unref();
  }

  #expireThoseDue(): void {
    const limit = performance.now() - (this.#seconds ?? Number.POSITIVE_INFINITY) * 1000;
    let some = false;
    for (const waiting of this.#waiting) {
      if (waiting.since > limit) break;
      some = true;
      this.#waiting.delete(waiting);
      this.#expired += 1;
      if (this.#expired === 1)
        log.warning(
          `the origin has kept a request waiting for ${this.#seconds} s (origin-timeout): it gets EIO, and so do others that wait as long`,
          { id: 'request-timeout' },
        );
      waiting.expire();
    }
    if (some) this.onExpired?.();
    this.#arm();
  }
}
