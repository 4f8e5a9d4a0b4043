/**
 * Writes where a domain's disks are into its live metadata (docs/reference.md), so that libvirt carries it
 * to the next host.
 *
 * libvirt blocks every call about a domain while one of that domain's hooks waits, and refuses changes while
 * the domain migrates. So this runs beside everything else and is waited for by nobody: soon after its cause,
 * and again with growing pauses until it is done or pointless.
 */
import type { Config } from '../../config/config.ts';
import type { ExportState } from '../../control/protocol.ts';
import { originMetadata } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';
import { exportUri } from '../disks/peers.ts';
import type { Exports } from '../exports/exports.ts';
import type { Domains } from '../registry/domains.ts';
import type { Relocations } from '../registry/moves.ts';

const pausesMs = [300, 1000, 2000, 5000, 10_000, 30_000, 60_000];

export interface MetadataWriter {
  setOriginMetadata(domainUuid: string, xml: string): Promise<void>;
}

interface Parts {
  config: Config;
  domains: Domains;
  exports: Exports;
  relocations: Relocations;
}

export interface Announcer {
  /** The domain's origins may have changed. */
  soon(domainUuid: string): void;
  close(): void;
}

export function announcer(parts: Parts, libvirt: MetadataWriter): Announcer {
  const timers = new Map<string, NodeJS.Timeout>();

  const plan = (uuid: string, attempt: number) => {
    clearTimeout(timers.get(uuid));
    const pause = pausesMs[Math.min(attempt, pausesMs.length - 1)];
    timers.set(
      uuid,
      setTimeout(() => void write(uuid, attempt), pause),
    );
  };

  const write = async (uuid: string, attempt: number) => {
    timers.delete(uuid);
    const domain = parts.domains.get(uuid);
    const xml = domain && originsXml(parts, uuid, domain.exports);
    if (domain === undefined || xml === undefined) return;
    try {
      await libvirt.setOriginMetadata(uuid, xml);
      log.info(`the origins of ${domain.name}'s disks are in its metadata`, {
        domain: domain.name,
        domainUuid: uuid,
      });
    } catch (error) {
      const again = `next try in ${pausesMs[Math.min(attempt + 1, pausesMs.length - 1)]! / 1000} s`;
      const message = `the origins of ${domain.name}'s disks are not in its metadata (${again}): ${(error as Error).message}`;
      if (attempt < 3) log.debug(message, { domain: domain.name, domainUuid: uuid });
      else log.warning(message, { domain: domain.name, domainUuid: uuid });
      if (!timers.has(uuid)) plan(uuid, attempt + 1);
    }
  };

  return {
    soon: (uuid) => plan(uuid, 0),
    close: () => {
      for (const timer of timers.values()) clearTimeout(timer);
    },
  };
}

/** States of a disk that is not here yet, or not any more. */
const elsewhere: ReadonlySet<ExportState> = new Set(['standby', 'fenced', 'retired', 'reclaimed']);

/**
 * The element, or undefined while there is nothing to say: the guest is not here, or an export does not run.
 */
function originsXml(
  { config, exports, relocations }: Parts,
  uuid: string,
  names: string[],
): string | undefined {
  const arriving = relocations.ofDomain(uuid);
  if (arriving !== undefined && !arriving.resumed) return undefined;
  const disks: Parameters<typeof originMetadata>[0][number][] = [];
  for (const name of names) {
    const status = exports.status(name);
    if (status === undefined || elsewhere.has(status.state)) return undefined;
    const uri = exportUri(config.gateway.advertise, name, config.gateway.tls);
    disks.push({ name, uri, uuid: status.uuid, generation: status.generation });
  }
  return originMetadata(disks);
}
