/**
 * Whether the guest runs here for which the disk has come. Until that is known a disk of which every block is
 * present keeps its origin: the source's guest may be gone because it was killed in the middle of its
 * migration, and then the disk goes back to where its domain is.
 */

/** If libvirt has not told within this that the migration failed, the guest is taken to run here. */
const RUNS_UNLESS_TOLD_MS = 60_000;

export class GuestArrival {
  runs: boolean;
  readonly #isAwaited: boolean;
  #timer: NodeJS.Timeout | null = null;

  /** @param isAwaited the daemon tells. @param runs as an earlier process knew it */
  constructor(isAwaited: boolean, runs: boolean) {
    this.#isAwaited = isAwaited;
    this.runs = runs;
  }

  /**
   * The disk may let its origin go. @param mayNotCome a hypervisor that has read here may wait for a guest
   * that never comes. @param come called when the time is over that it is waited for
   */
  admits(mayNotCome: boolean, come: () => void): boolean {
    if (!this.#isAwaited || !mayNotCome || this.runs) return true;
    this.#timer ??= setTimeout(come, RUNS_UNLESS_TOLD_MS).unref();
    return false;
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}
