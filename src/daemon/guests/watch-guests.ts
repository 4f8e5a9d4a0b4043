/**
 * What libvirt tells beside its hooks. Nothing here is needed for safety: a disk is taken over at its guest's
 * first write in any case, and hooks tell who ends. But a guest that only reads arrives silently, and hooks
 * are missed while the daemon is away.
 */

import { type ActiveDomain, type DomainEvent, LibvirtClient } from '../../libvirt/client.ts';
import { log } from '../../log/log.ts';
import { release, stopped } from '../hooks/ends.ts';
import type { Host } from '../host.ts';
import type { UsingDomain } from '../registry/domains.ts';
import { type Announcer, announcer } from './origin-metadata.ts';

/** virDomainEventType. */
const eventStarted = 2;
const eventResumed = 4;
/** virDomainState. */
const stateRunning = 1;
/** A domain is believed to have ended without a hook only after libvirt has said so for this long. */
const goneMs = 30_000;

export interface GuestWatch {
  announce: Announcer;
  start(): void;
  close(): void;
}

export function watchGuests(host: Host): GuestWatch {
  const client = new LibvirtClient({
    address: host.config.libvirt.dbus,
    onEvent: (event) => onEvent(event),
    onDomains: (domains) => onDomains(domains),
  });
  const announce = announcer(host, client);
  const checks = new Map<string, NodeJS.Timeout>();

  function onEvent({ uuid, event }: DomainEvent): void {
    if (host.domains.get(uuid) === undefined) return;
    if (event === eventResumed) guestRuns(uuid);
    if (event === eventResumed || event === eventStarted) announce.soon(uuid);
  }

  function onDomains(active: readonly ActiveDomain[]): void {
    for (const { uuid, state } of active) {
      if (host.domains.get(uuid) === undefined) continue;
      if (state === stateRunning) guestRuns(uuid);
      announce.soon(uuid);
    }
    for (const domain of host.domains.all()) {
      if (!active.some(({ uuid }) => uuid === domain.uuid)) checkLater(domain);
    }
  }

  /** The guest runs on this host: if it has arrived just now, its disks are taken over. */
  function guestRuns(uuid: string): void {
    const relocation = host.relocations.ofDomain(uuid);
    if (relocation?.prepared !== true) return;
    if (!relocation.resumed) host.relocations.setResumed(relocation);
    for (const name of Object.keys(relocation.disks)) {
      // One that is relocating has been taken over by the source's word: it hears that its guest has come.
      const state = host.exports.status(name)?.state;
      if (state !== 'standby' && state !== 'relocating') continue;
      host.exports.call(name, 'takeover').catch((error: unknown) => {
        log.warning(`disk ${name} is not taken over yet: ${(error as Error).message}`, { export: name });
      });
    }
  }

  /**
   * Another driver may have the domain, or a hook of it may be running: so libvirt is asked about this one,
   * twice.
   */
  function checkLater(domain: UsingDomain): void {
    if (checks.has(domain.uuid)) return;
    const check = async (first: boolean): Promise<void> => {
      checks.delete(domain.uuid);
      if (host.domains.get(domain.uuid) === undefined || !(await isInactive(domain.uuid))) return;
      if (first || Date.now() - host.domains.lastUse(domain.uuid) < goneMs) {
        checks.set(
          domain.uuid,
          setTimeout(() => void check(false), goneMs),
        );
        return;
      }
      log.warning(`${domain.name} has ended and no hook told: its disks are let go`, {
        domain: domain.name,
        domainUuid: domain.uuid,
      });
      await host.turns.run(domain.uuid, async () => {
        await stopped(host, domain);
        await release(host, domain);
      });
    };
    void check(true);
  }

  async function isInactive(uuid: string): Promise<boolean> {
    try {
      return !/^[^<]*<domain\b[^>]*\sid=/.test(await client.domainXml(uuid));
    } catch (error) {
      return /domain not found|no domain with/i.test((error as Error).message);
    }
  }

  return {
    announce,
    start: () => client.start(),
    close() {
      for (const timer of checks.values()) clearTimeout(timer);
      announce.close();
      client.close();
    },
  };
}
