/**
 * Ends exports that nobody uses any more.
 *
 * An export that was lent a moment ago is kept a while longer: its guest may have left while the link of the
 * host that it went to was broken, and that host must find the disk when it comes back. Nobody else would
 * start it again.
 */
import { log } from '../../log/log.ts';
import type { Domains } from '../registry/domains.ts';
import type { Exports } from './exports.ts';

/** So long after it was lent the next host may still believe that it is. */
const lentGraceMs = 60_000;
/** How long a link may be away; an export that waits costs 16 MB. */
const keptMs = 3_600_000;
const busyMs = 2000;

export class Idle {
  readonly #domains: Domains;
  readonly #exports: Exports;
  readonly #lentAt = new Map<string, number>();
  readonly #due = new Map<string, number>();

  constructor(domains: Domains, exports: Exports) {
    this.#domains = domains;
    this.#exports = exports;
  }

  /** Remembers that an export is lent now. */
  lent(name: string): void {
    this.#lentAt.set(name, Date.now());
  }

  /** Nobody will come for it. */
  returned(name: string): void {
    this.#lentAt.delete(name);
    this.#due.delete(name);
  }

  /** Ends an export that serves and has no guest, now or after its time of grace. */
  async end(name: string): Promise<void> {
    if (this.#isAwaited(name)) {
      this.#due.set(name, Date.now() + keptMs);
      return;
    }
    this.#due.delete(name);
    const status = this.#exports.status(name);
    // One that still has an origin has yet to tell it to retire.
    if (this.#domains.using(name) !== undefined || status?.state !== 'serving' || status.origin !== null)
      return;
    // Somebody whom no hook has told of: his disk is not taken from under him.
    if (status.clients > 0) {
      this.#due.set(name, Date.now() + busyMs);
      return;
    }
    await this.#exports.stop(name);
    log.info(`disk ${name} is no longer in use: its export has ended`, { export: name });
  }

  /** It has no guest, and must be there all the same. */
  keeps(name: string): boolean {
    return this.#isAwaited(name) || this.#due.has(name);
  }

  /** Ends those whose grace is over. Called now and then. */
  async sweep(): Promise<void> {
    for (const [name, due] of this.#due) if (Date.now() >= due) await this.end(name);
  }

  #isAwaited(name: string): boolean {
    return Date.now() < (this.#lentAt.get(name) ?? Number.NEGATIVE_INFINITY) + lentGraceMs;
  }
}
