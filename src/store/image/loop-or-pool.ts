/**
 * Whether to make a system call on the loop or in the thread pool. Against the page cache a call takes
 * microseconds, and the pool would cost ten times that; against a disk that is busy it blocks every client.
 * So calls are made on the loop while they come back quickly; one slow call sends the next ones to the pool
 * for a while, then one call on the loop probes. Each slow probe doubles the while.
 */
const FIXED_MS = 0.5;
/** What a copy to or from the page cache may take at most, first touch of its pages included: 500 MB/s. */
const MS_PER_BYTE = 1 / 500_000;
const SHORTEST_MS = 10;
const LONGEST_MS = 1000;

export class LoopOrPool {
  #poolUntil = 0;
  #whileMs = SHORTEST_MS;

  /** @param now a reading of performance.now() */
  mayBlock(now: number): boolean {
    return now >= this.#poolUntil;
  }

  /** A call on the loop moved `bytes` and took from `before` to `after`, readings of performance.now(). */
  measured(before: number, after: number, bytes: number): void {
    if (after - before <= FIXED_MS + bytes * MS_PER_BYTE) {
      this.#whileMs = SHORTEST_MS;
      return;
    }
    this.#poolUntil = after + this.#whileMs;
    this.#whileMs = Math.min(this.#whileMs * 2, LONGEST_MS);
  }
}
