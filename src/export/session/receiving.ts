/**
 * Requests that have come in half: how much memory they may take, and how long they may take.
 *
 * A WRITE that fits a session's receive buffer costs nothing more than that buffer. A larger one needs memory
 * of its own until it is whole, and a client may never send the rest: so all clients of an export share some
 * memory for that (large-requests.ts). Past it a session stops reading, and goes on in its turn. A request
 * that has begun is whole in time, or its client is shown out: it would hold what others wait for.
 */
import type { Growth } from '../../nbd/receive-buffer.ts';
import type { LargeRequests } from '../large-requests.ts';

/** A payload comes with so many bytes a millisecond at least. */
const SLOWEST = 128;

/** One session's part of it. */
export class Receiving implements Growth {
  /** The request that comes in needs memory that is not to be had for now. */
  waits = false;
  readonly #large: LargeRequests;
  readonly #goOn: () => void;
  readonly #late: (seconds: number) => void;
  #heldBytes = 0;
  #wantedBytes = 0;
  #timer: NodeJS.Timeout | undefined;

  /** @param goOn memory has been granted. @param late a request has not come in as a whole for so long */
  constructor(large: LargeRequests, goOn: () => void, late: (seconds: number) => void) {
    this.#large = large;
    this.#goOn = goOn;
    this.#late = late;
  }

  mayGrow(bytes: number): boolean {
    if (this.#heldBytes >= bytes) return true;
    if (this.waits) return false;
    this.#wantedBytes = bytes;
    if (this.#large.take(bytes, this.#granted)) this.#heldBytes = bytes;
    else this.waits = true;
    return !this.waits;
  }

  shrunk(): void {
    this.#wantedBytes = 0;
    if (this.#heldBytes === 0) return;
    const bytes = this.#heldBytes;
    this.#heldBytes = 0;
    this.#large.giveBack(bytes);
  }

  /**
   * A request has begun and is not whole: from now on its time runs. Costs nothing where that has been said
   * of the same session already.
   * @param stands whether still the same request is coming in, and the server waits for the client, not the
   * other way round
   */
  begun(wholeSoFar: number, stands: (wholeSoFar: number) => boolean): void {
    this.#timer ??= this.#watch(performance.now(), wholeSoFar, stands, this.#large.requestMs);
  }

  close(): void {
    clearTimeout(this.#timer);
    if (this.waits) this.#large.forget(this.#granted);
    this.shrunk();
  }

  #watch(
    began: number,
    wholeSoFar: number,
    stands: (wholeSoFar: number) => boolean,
    afterMs: number,
  ): NodeJS.Timeout {
    return setTimeout(() => {
      this.#timer = undefined;
      if (!stands(wholeSoFar)) return;
      const tookMs = performance.now() - began;
      const leftMs = this.#large.requestMs + this.#wantedBytes / SLOWEST - tookMs;
      if (leftMs <= 0) this.#late(tookMs / 1000);
      else this.#timer = this.#watch(began, wholeSoFar, stands, leftMs);
    }, afterMs).unref();
  }

  readonly #granted = (): void => {
    this.waits = false;
    this.#heldBytes = this.#wantedBytes;
    this.#goOn();
  };
}
