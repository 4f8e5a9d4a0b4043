/**
 * Tells a disk that is lent when its guest is being migrated away: only then may a host of the network take
 * it over (src/export/lending/takeover-guard.ts).
 *
 * libvirt calls no hook at the source when a migration begins, and its event comes at the switchover, when
 * the destination's guest may have written already. So while a disk of a domain is lent, libvirt is asked
 * whether the domain has an outgoing job. Where libvirt cannot be asked, the `stopped` hook is the word.
 */
import { log } from '../../log/log.ts';
import type { Exports } from '../exports/exports.ts';
import type { Domains } from '../registry/domains.ts';

const ASK_AGAIN_MS = 250;

export interface DepartureSource {
  /** @throws Error when libvirt cannot be asked */
  migratesAway(domainUuid: string): Promise<boolean>;
}

interface Parts {
  domains: Domains;
  exports: Exports;
}

export class DepartingGuests {
  readonly #parts: Parts;
  readonly #libvirt: DepartureSource;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  /** Disks that have been told, for as long as they are lent. */
  readonly #told = new Set<string>();

  constructor(parts: Parts, libvirt: DepartureSource) {
    this.#parts = parts;
    this.#libvirt = libvirt;
    parts.exports.on('status', ({ name, state }) => {
      if (state !== 'lent') this.#told.delete(name);
      const user = state === 'lent' ? parts.domains.using(name) : undefined;
      if (user !== undefined && !this.#timers.has(user.uuid)) this.#askSoon(user.uuid, 0);
    });
    // A process that is started again knows nothing of it.
    parts.exports.on('ended', (name) => this.#told.delete(name));
  }

  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }

  #askSoon(uuid: string, ms: number): void {
    this.#timers.set(
      uuid,
      setTimeout(() => void this.#ask(uuid), ms),
    );
  }

  async #ask(uuid: string): Promise<void> {
    const lent = this.#lentDisks(uuid);
    const leaves = lent.length > 0 && (await this.#libvirt.migratesAway(uuid).catch(() => false));
    if (leaves) for (const name of lent) await this.#tell(name);
    this.#timers.delete(uuid);
    if (this.#lentDisks(uuid).length > 0) this.#askSoon(uuid, ASK_AGAIN_MS);
  }

  #lentDisks(uuid: string): string[] {
    const { domains, exports } = this.#parts;
    const names = domains.get(uuid)?.exports ?? [];
    return names.filter((name) => exports.status(name)?.state === 'lent' && !this.#told.has(name));
  }

  async #tell(name: string): Promise<void> {
    try {
      await this.#parts.exports.call(name, 'source-leaves');
      this.#told.add(name);
    } catch (error) {
      // One of an earlier release asks for no such word.
      this.#told.add(name);
      log.debug(`disk ${name} was not told that its guest leaves: ${(error as Error).message}`, {
        export: name,
      });
    }
  }
}
