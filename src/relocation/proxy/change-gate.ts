/**
 * Counts the changes that clients make to a relocating disk: from the first one on that was let in, giving
 * the move up could lose data that exists nowhere else.
 */
export class ChangeGate {
  /** A write, trim or zeroing has been acknowledged, or may have been by an earlier process. */
  acknowledged = false;
  /** Called when that happens first. */
  onAcknowledged: (() => void) | null = null;
  /** Let in and not answered yet. */
  #underWay = 0;
  #closed = false;

  /** A change comes in; `leave` follows. @returns false when none is let in any more */
  enter(): boolean {
    if (this.#closed) return false;
    this.#underWay += 1;
    return true;
  }

  /** A change that came in has its answer. */
  leave(errno: number): void {
    this.#underWay -= 1;
    if (errno !== 0 || this.acknowledged) return;
    this.acknowledged = true;
    this.onAcknowledged?.();
  }

  /** Lets no change in any more. @returns false, and does nothing, once one has been let in */
  close(): boolean {
    if (this.acknowledged || this.#underWay > 0) return false;
    this.#closed = true;
    return true;
  }

  /** Changes are let in again. */
  open(): void {
    this.#closed = false;
  }
}
