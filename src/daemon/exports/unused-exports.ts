/**
 * Ends exports that no guest uses any more.
 *
 * An export that was lent a moment ago runs for a while longer: its guest may have left while the link to the
 * destination was broken, and the destination must find the disk when the link comes back, because nothing
 * else would start the export again.
 */
import { log } from '../../log/log.ts';
import type { Domains } from '../registry/domains.ts';
import type { Exports } from './exports.ts';

/** For this long after the end of a lease the destination may still believe that it holds it. */
const lentGraceMs = 60_000;
/** How long a link may be away; an export that waits costs 16 MB. */
const linkAwayMs = 3_600_000;
/** After this long an export with clients is looked at again. */
const busyMs = 2000;

export class UnusedExports {
  readonly #domains: Domains;
  readonly #exports: Exports;
  readonly #lentAt = new Map<string, number>();
  /** When an export that is unused is looked at again, ms of `performance.now()`. */
  readonly #dueAt = new Map<string, number>();

  constructor(domains: Domains, exports: Exports) {
    this.#domains = domains;
    this.#exports = exports;
  }

  /** The export is lent now. */
  noteLent(name: string): void {
    this.#lentAt.set(name, performance.now());
  }

  /** No destination will come for the export any more. */
  noteReturned(name: string): void {
    this.#lentAt.delete(name);
    this.#dueAt.delete(name);
  }

  /** The guest has gone to a host that will come for the disk, as soon as it can. */
  awaitNextHost(name: string): void {
    this.#dueAt.set(name, performance.now() + linkAwayMs);
  }

  /** Ends an export that serves and has no guest, now or after its time of grace. */
  async endIfUnused(name: string): Promise<void> {
    if (this.#wasJustLent(name)) {
      this.awaitNextHost(name);
      return;
    }
    this.#dueAt.delete(name);
    const status = this.#exports.status(name);
    // An export that still has an origin has yet to tell it to retire.
    if (this.#domains.using(name) !== undefined || status?.state !== 'serving' || status.origin !== null)
      return;
    // A client is connected that no hook told of: do not stop the export under it; look again later.
    if (status.clients > 0) {
      this.#dueAt.set(name, performance.now() + busyMs);
      return;
    }
    await this.#exports.stop(name);
    log.info(`disk ${name} is no longer in use: its export has ended`, { id: 'export-unused', export: name });
  }

  /** The export has no guest, and must run all the same. */
  mustStay(name: string): boolean {
    return this.#wasJustLent(name) || this.#dueAt.has(name);
  }

  /** Ends the exports whose grace is over. Called now and then. */
  async endThoseDue(): Promise<void> {
    for (const [name, dueAt] of this.#dueAt) if (performance.now() >= dueAt) await this.endIfUnused(name);
  }

  #wasJustLent(name: string): boolean {
    return performance.now() < (this.#lentAt.get(name) ?? Number.NEGATIVE_INFINITY) + lentGraceMs;
  }
}
