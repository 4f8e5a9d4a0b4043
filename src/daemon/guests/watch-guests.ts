/**
 * What libvirt tells beside its hooks. Nothing here is needed for safety: a disk is taken over at its guest's
 * first write in any case, and hooks tell which domain ends. But a guest that only reads arrives silently,
 * and hooks are missed while the daemon is away.
 */
import { stateRunning } from '../../libvirt/calls.ts';
import type { ActiveDomain, DomainEvent, LibvirtClient } from '../../libvirt/client.ts';
import { isActive } from '../../libvirt/has-ended.ts';
import { log } from '../../log/log.ts';
import { release, stopped } from '../hooks/ends.ts';
import type { Host } from '../host.ts';
import type { UsingDomain } from '../registry/domains.ts';

/** virDomainEventType. */
const eventStarted = 2;
const eventResumed = 4;
/** A domain counts as ended without a hook only when libvirt has said so for this long. */
const goneMs = 30_000;

export interface GuestWatch {
  close(): void;
}

export function watchGuests(host: Host, libvirt: LibvirtClient): GuestWatch {
  const checks = new Map<string, NodeJS.Timeout>();

  function onEvent({ uuid, event }: DomainEvent): void {
    if (host.domains.get(uuid) === undefined) return;
    if (event === eventResumed) guestRuns(uuid);
    if (event === eventResumed || event === eventStarted) host.writeOriginsSoon(uuid);
  }

  function onDomains(active: readonly ActiveDomain[]): void {
    for (const { uuid, state } of active) {
      if (host.domains.get(uuid) === undefined) continue;
      if (state === stateRunning) guestRuns(uuid);
      host.writeOriginsSoon(uuid);
    }
    for (const domain of host.domains.all()) {
      if (!active.some(({ uuid }) => uuid === domain.uuid)) checkLater(domain);
    }
  }

  /** The guest runs on this host: if it has arrived just now, its disks are taken over. */
  function guestRuns(uuid: string): void {
    const move = host.moves.ofDomain(uuid);
    if (move?.prepared !== true) return;
    if (!move.resumed) host.moves.setResumed(move);
    for (const name of Object.keys(move.disks)) {
      // A disk that is relocating was taken over at the source's word: its export hears that the guest has
      // come.
      const state = host.exports.status(name)?.state;
      if (state !== 'standby' && state !== 'relocating') continue;
      host.exports.call(name, 'takeover').catch((error: unknown) => {
        log.warning(`disk ${name} is not taken over yet: ${(error as Error).message}`, { export: name });
      });
    }
  }

  /**
   * Libvirt is asked about this domain, twice, because another driver may have it, or one of its hooks may be
   * running.
   */
  function checkLater(domain: UsingDomain): void {
    if (checks.has(domain.uuid)) return;
    const check = async (first: boolean): Promise<void> => {
      checks.delete(domain.uuid);
      if (host.domains.get(domain.uuid) === undefined || (await isActive(libvirt, domain.uuid)) !== false)
        return;
      if (first || host.domains.unusedMs(domain.uuid) < goneMs) {
        checks.set(
          domain.uuid,
          setTimeout(() => void check(false), goneMs),
        );
        return;
      }
      log.warning(`${domain.name} has ended and no hook told: its disks are let go`, {
        id: 'end-not-told',
        domain: domain.name,
        domainUuid: domain.uuid,
      });
      await host.queue.run(domain.uuid, async () => {
        await stopped(host, domain);
        await release(host, domain);
      });
    };
    void check(true);
  }

  libvirt.on('event', onEvent);
  libvirt.on('domains', onDomains);
  return {
    close() {
      for (const timer of checks.values()) clearTimeout(timer);
    },
  };
}
