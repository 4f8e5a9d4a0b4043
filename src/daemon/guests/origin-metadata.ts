/**
 * Writes where a domain's disks are into its live metadata (docs/reference.md), so that libvirt carries it
 * to the next host.
 *
 * libvirt blocks every call about a domain while one of that domain's hooks waits, and refuses changes while
 * the domain migrates. So this runs beside everything else and nothing waits for it: soon after its cause,
 * and again with growing pauses until it is done or pointless.
 */
import type { Config } from '../../config/config.ts';
import type { ExportState } from '../../control/status.ts';
import { originMetadata } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';
import { exportUri } from '../disks/peers.ts';
import type { Exports } from '../exports/exports.ts';
import type { Domains } from '../registry/domains.ts';
import type { Moves } from '../registry/moves.ts';

const pausesMs = [300, 1000, 2000, 5000, 10_000, 30_000, 60_000];
/** A domain that migrates refuses the first attempts as a matter of course. */
const quietAttempts = 3;

export interface MetadataWriter {
  setOriginMetadata(domainUuid: string, xml: string): Promise<void>;
}

interface Parts {
  config: Config;
  domains: Domains;
  exports: Exports;
  moves: Moves;
}

export class OriginMetadata {
  readonly #parts: Parts;
  readonly #libvirt: MetadataWriter;
  readonly #timers = new Map<string, NodeJS.Timeout>();

  constructor(parts: Parts, libvirt: MetadataWriter) {
    this.#parts = parts;
    this.#libvirt = libvirt;
  }

  /** The domain's origins may have changed. */
  writeSoon(domainUuid: string): void {
    this.#plan(domainUuid, 0);
  }

  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }

  #plan(uuid: string, attempt: number): void {
    clearTimeout(this.#timers.get(uuid));
    this.#timers.set(
      uuid,
      setTimeout(() => void this.#write(uuid, attempt), pauseMs(attempt)),
    );
  }

  async #write(uuid: string, attempt: number): Promise<void> {
    this.#timers.delete(uuid);
    const domain = this.#parts.domains.get(uuid);
    const xml = domain && originsXml(this.#parts, uuid, domain.exports);
    if (domain === undefined || xml === undefined) return;
    const fields = { domain: domain.name, domainUuid: uuid };
    try {
      await this.#libvirt.setOriginMetadata(uuid, xml);
      log.info(`the origins of ${domain.name}'s disks are in its metadata`, fields);
    } catch (error) {
      const again = `next try in ${pauseMs(attempt + 1) / 1000} s`;
      const message = `the origins of ${domain.name}'s disks are not in its metadata (${again}): ${(error as Error).message}`;
      if (attempt < quietAttempts) log.debug(message, fields);
      else log.warning(message, fields);
      if (!this.#timers.has(uuid)) this.#plan(uuid, attempt + 1);
    }
  }
}

function pauseMs(attempt: number): number {
  return pausesMs[Math.min(attempt, pausesMs.length - 1)]!;
}

/** States of a disk that is not here yet, or not any more. */
const elsewhere: ReadonlySet<ExportState> = new Set(['standby', 'fenced', 'retired', 'reclaimed']);

/**
 * The element, or undefined while there is nothing to say: the guest is not here, or an export does not run.
 */
function originsXml({ config, exports, moves }: Parts, uuid: string, names: string[]): string | undefined {
  const arriving = moves.ofDomain(uuid);
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
