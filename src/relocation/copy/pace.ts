/**
 * How much may be under way to the origin now. Before each request `open` is asked, and what becomes of
 * it is told; how that is worked out is an implementation's own (path-window.ts: by delay).
 */
export interface Pace {
  /** Bytes that a request should have now; a multiple of the block size. */
  readonly chunk: number;
  /** Another request may go out. */
  readonly open: boolean;
  /**
   * While it is not open: when it opens by itself, ms of `performance.now()`; null when an answer is what it
   * waits for.
   */
  readonly reopensAt: number | null;
  sent(bytes: number): void;
  /** @param elapsed ms since it was sent. @param now ms of `performance.now()` */
  answered(bytes: number, elapsed: number, now: number): void;
  /** A request has failed: it says nothing of the path. */
  failed(bytes: number): void;
}

/** Calls `then` when a pace opens by itself; not within the call. */
export class Reopening {
  readonly #then: () => void;
  #timer: NodeJS.Timeout | null = null;
  /** When the timer ends, ms of `performance.now()`. */
  #due = 0;

  constructor(then: () => void) {
    this.#then = then;
  }

  /**
   * To be called when the pace was found closed; it may have opened since, by the clock. Awaited again, the
   * earlier time counts: a cap that is raised opens sooner.
   */
  await({ open, reopensAt }: Pace): void {
    const at = open ? 0 : reopensAt;
    if (at === null || (this.#timer !== null && this.#due <= at)) return;
    this.stop();
    this.#due = at;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.#then();
      },
      Math.max(at - performance.now(), 0),
    ).unref();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
