/**
 * How much may be under way to the origin now. Before each request `open` is asked, and what becomes of
 * it is told; how that is worked out is an implementation's own (background-window.ts: by delay).
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

/** Calls `then` when a pace opens by itself: at most once, and not within the call. */
export class Reopening {
  readonly #then: () => void;
  #timer: NodeJS.Timeout | null = null;

  constructor(then: () => void) {
    this.#then = then;
  }

  /** To be called when the pace was found closed; it may have opened since, by the clock. */
  await({ open, reopensAt }: Pace): void {
    const at = open ? 0 : reopensAt;
    if (at === null || this.#timer !== null) return;
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
