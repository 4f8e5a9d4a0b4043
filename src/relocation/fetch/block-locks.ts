/**
 * An absent block becomes a present one under a lock, by the keeping of a fetched block, or by a guest's
 * write, trim or zeroing. The holder of the lock looks again which blocks are still absent.
 * So a fetch that arrives late never overwrites a newer write (rule 6), whichever of the two reaches the
 * image first, and a write that fails leaves the block to the fetch.
 *
 * Present blocks need no lock: nothing but the guest changes them. Locks are first come, first served, and
 * held only for local disk time, never over the network.
 */
interface Lock {
  first: number;
  end: number;
  /** Runs the holder when its turn has come; null once it runs. */
  start: (() => void) | null;
}

export class BlockLocks {
  /**
   * Those that are held and those that wait, in order of arrival. Few: as many as there are local writes in
   * flight.
   */
  readonly #locks: Lock[] = [];
  #onceIdle: (() => void)[] = [];

  /**
   * Calls `holder` once no earlier lock overlaps [first, first + count): at once, if there is none now.
   * The holder calls `release` exactly once.
   */
  acquire(first: number, count: number, holder: (release: () => void) => void): void {
    const lock: Lock = { first, end: first + count, start: null };
    const release = () => this.#release(lock);
    const blocked = this.#blocked(lock, this.#locks.length);
    this.#locks.push(lock);
    if (blocked) lock.start = () => holder(release);
    else holder(release);
  }

  /** No lock is held or awaited. */
  get idle(): boolean {
    return this.#locks.length === 0;
  }

  /** Resolves once no lock is held or awaited. */
  whenIdle(): Promise<void> {
    return new Promise((resolve) => {
      if (this.idle) resolve();
      else this.#onceIdle.push(resolve);
    });
  }

  #blocked(lock: Lock, earlierThan: number): boolean {
    for (let at = 0; at < earlierThan; at++) {
      const other = this.#locks[at]!;
      if (other.first < lock.end && lock.first < other.end) return true;
    }
    return false;
  }

  #release(lock: Lock): void {
    this.#locks.splice(this.#locks.indexOf(lock), 1);
    // A start may release and so change the list: begin anew after each.
    for (let at = 0; at < this.#locks.length; at++) {
      const waiting = this.#locks[at]!;
      if (waiting.start === null || this.#blocked(waiting, at)) continue;
      const start = waiting.start;
      waiting.start = null;
      start();
      at = -1;
    }
    if (this.idle) for (const resolve of this.#onceIdle.splice(0)) resolve();
  }
}
