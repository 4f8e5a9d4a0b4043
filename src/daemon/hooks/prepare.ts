/**
 * `prepare`: a domain is about to start here, or to arrive. Its disks have to be there before the hypervisor
 * opens them.
 */
import type { DomainInfo } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import { arrive } from '../disks/arrival.ts';
import type { Host } from '../host.ts';
import { usingDomain } from '../registry/domains.ts';
import { claimDisks } from './claim-disks.ts';
import { takeAnnouncement } from './libxl-announcements.ts';
import type { HookCall } from './server.ts';

/** @throws Error with the line that the administrator sees in virsh. */
export async function prepare(
  host: Host,
  domain: DomainInfo,
  call: HookCall,
  signal: AbortSignal,
): Promise<void> {
  const announced = await takeAnnouncement(host.config, call);
  let move = host.moves.ofDomain(domain.uuid);
  if (move === undefined && announced && !(await allHere(host, domain))) {
    move = await arrive(host, domain, signal);
  }
  if (move?.state === 'preparing') {
    await host.moves.setPrepared(move);
    await host.domains.use(usingDomain(domain));
    await Promise.all(domain.disks.map((disk) => provide(host, disk.export, signal)));
    return;
  }
  await start(host, domain, signal);
}

/** Sees to it that a disk can be opened. */
async function provide(host: Host, name: string, signal: AbortSignal): Promise<void> {
  await host.exports.ensure(name, signal);
  await host.devices.attach(name);
}

async function withdraw(host: Host, name: string): Promise<void> {
  await host.devices.detach(name);
  await host.exports.stop(name);
}

async function start(host: Host, domain: DomainInfo, signal: AbortSignal): Promise<void> {
  for (const disk of domain.disks) {
    checkStartable(domain, disk.export, await host.exports.record(disk.export));
  }
  await claimDisks(host, usingDomain(domain));
  const startedNow = domain.disks.filter((disk) => host.exports.status(disk.export) === undefined);
  // All to their end, because an export that came up after another's refusal would stay.
  const started = await Promise.allSettled(
    domain.disks.map(async (disk) => {
      await provide(host, disk.export, signal);
      // A destination that stands by for an earlier start of the guest cannot take the disk over any more.
      await host.exports.call(disk.export, 'new-guest');
    }),
  );
  const refused = started.find((result) => result.status === 'rejected');
  if (refused !== undefined) {
    await host.domains.release(domain.uuid);
    await Promise.allSettled(startedNow.map((disk) => withdraw(host, disk.export)));
    throw refused.reason;
  }
  const names = domain.disks.map((disk) => disk.export).join(', ');
  log.info(`${domain.name} starts: its disks are served (${names})`, {
    id: 'guest-starts',
    domain: domain.name,
    domainUuid: domain.uuid,
  });
}

/** A domain that was announced as arriving, but whose disks this host serves itself, is only started. */
async function allHere(host: Host, domain: DomainInfo): Promise<boolean> {
  const records = await Promise.all(domain.disks.map((disk) => host.exports.record(disk.export)));
  return records.every((record) => record?.state === 'serving');
}

function whereTo({ movedTo, lease }: ExportRecord): string {
  const host = movedTo?.host || `another host (lease ${lease})`;
  return movedTo === null ? host : `${host} at ${movedTo.at}`;
}

function checkStartable(domain: DomainInfo, name: string, record: ExportRecord | undefined): void {
  const disk = `disk ${name} of ${domain.name}`;
  switch (record?.state) {
    case 'serving':
    case 'relocating':
      return;
    case undefined:
      throw new Error(
        `${disk} is not known on this host: if its image is here, run: xnbdctl adopt ${domain.name}`,
      );
    case 'fenced':
      throw new Error(
        `${disk} moved to ${whereTo(record)}, which still copies from here; start ${domain.name} there, or, if that host is lost for good: xnbdctl reclaim ${name} --force`,
      );
    case 'retired':
      throw new Error(
        `${disk} moved to ${whereTo(record)}, completely (what is here is its old generation ${record.generation}); start ${domain.name} there`,
      );
    case 'reclaimed':
      throw new Error(
        `${disk} is void here: the host that it came from has taken it back (${record.origin?.uri}); start ${domain.name} there, and see xnbdctl status ${name}`,
      );
    case 'standby':
      throw new Error(
        `${disk} stands by for a migration that never came, and is still at ${record.origin?.uri}; start ${domain.name} there, or give the move up: xnbdctl abandon ${name}`,
      );
  }
}
