/** What an export's clients may take together for requests that have come in half (session/receiving.ts). */
/**
 * What the requests larger than a receive buffer may take, all clients together, bytes: some of the largest
 * that there are.
 */
const LARGE_BYTES = 256 * 1024 * 1024;
/** A request is whole so long after it began, its payload apart. */
const REQUEST_MS = 60_000;

export class LargeRequests {
  readonly limitBytes = LARGE_BYTES;
  heldBytes = 0;
  /** Milliseconds that a request has to come in, its payload apart. */
  requestMs = REQUEST_MS;
  readonly #waiting: { bytes: number; granted: () => void }[] = [];

  /**
   * @param granted called later where there is not so much now. @returns true: it is the caller's until
   * `giveBack`
   */
  take(bytes: number, granted: () => void): boolean {
    if (this.#waiting.length === 0 && this.#fits(bytes)) {
      this.heldBytes += bytes;
      return true;
    }
    this.#waiting.push({ bytes, granted });
    return false;
  }

  giveBack(bytes: number): void {
    this.heldBytes -= bytes;
    while (this.#waiting.length > 0 && this.#fits(this.#waiting[0]!.bytes)) {
      const next = this.#waiting.shift()!;
      this.heldBytes += next.bytes;
      next.granted();
    }
  }

  /** The session that waits with this callback does not any more. */
  forget(granted: () => void): void {
    const index = this.#waiting.findIndex((each) => each.granted === granted);
    if (index !== -1) this.#waiting.splice(index, 1);
  }

  #fits(bytes: number): boolean {
    return this.heldBytes + bytes <= this.limitBytes;
  }
}
