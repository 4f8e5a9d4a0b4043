/**
 * `stopped` and `release`: a domain has ended here, or a migration to here has failed. libvirt may run both
 * hooks twice, and ignores their answers; so each looks at the state of its disks, and nothing here fails the
 * hook.
 *
 * Why a domain ended, `release` is told by libvirt 10.5 and later, in its fourth argument; earlier ones say
 * `-`. A domain that has migrated has left a disk behind that its next host will come for, even where the
 * link between them is broken and the disk is lent to nobody by now. For the disk of one that was shut down
 * from inside, or saved, nobody will. `destroyed` and `crashed` tell nothing: a domain may be destroyed here
 * whose migration had come to its end, but for libvirt's knowing it.
 */
import { log } from '../../log/log.ts';
import { discard, giveUp } from '../disks/arrival.ts';
import { retire } from '../disks/retirement.ts';
import type { Host } from '../host.ts';
import type { UsingDomain } from '../registry/domains.ts';

/** The guest's process is gone: the host that holds a lease on its disks may take them over. */
export async function stopped(host: Host, domain: UsingDomain): Promise<void> {
  for (const name of domain.exports) {
    const state = host.exports.status(name)?.state;
    if (state !== 'lent' && state !== 'fencing' && state !== 'serving') continue;
    await attempt(
      `the end of ${domain.name} could not be told to the next host of disk ${name}`,
      async () => {
        await host.exports.call(name, 'source-gone');
        if (state === 'lent')
          log.info(`${domain.name} has left: disk ${name} may be taken over`, { export: name });
      },
    );
  }
}

/** Reasons of `release` after which nobody comes for a disk that rests here. */
const endedHere: ReadonlySet<string> = new Set(['shutdown', 'saved']);

/**
 * libvirt frees the domain's resources: what has no use without the domain ends.
 * @param reason as libvirt says it; `-`: it does not
 */
export async function release(host: Host, domain: UsingDomain, reason = '-'): Promise<void> {
  await host.domains.release(domain.uuid);
  const move = host.moves.ofDomain(domain.uuid);
  if (move !== undefined && !move.resumed && (await nothingWritten(host, Object.keys(move.disks)))) {
    // The guest has never run here: the migration has failed. Should it have written all the same, the
    // exports refuse.
    await attempt(`the move of ${domain.name} goes on`, () =>
      giveUp(host, move, 'libvirt gave the migration up before the guest had arrived'),
    );
  }
  for (const name of domain.exports) {
    await attempt(`export ${name} goes on`, async () => {
      await host.devices.detach(name);
      await endExport(host, name, reason);
    });
  }
}

async function nothingWritten(host: Host, names: string[]): Promise<boolean> {
  const statuses = await Promise.all(names.map((name) => host.exports.statusNow(name)));
  return statuses.every((status) => (status?.writtenBytes ?? 0) === 0);
}

async function endExport(host: Host, name: string, reason: string): Promise<void> {
  const record = await host.exports.record(name);
  const state = host.exports.status(name)?.state ?? record?.state;
  switch (state) {
    case 'serving':
      if (reason === 'migrated') {
        host.unused.awaitNextHost(name);
        break;
      }
      if (endedHere.has(reason)) host.unused.noteReturned(name);
      await host.unused.endIfUnused(name);
      break;
    case 'standby':
      // The guest has written to another of its disks here: this one belongs here, too.
      if (host.moves.ofExport(name)?.state === 'relocating') await host.exports.call(name, 'takeover');
      else await discard(host, name);
      break;
    case 'retired':
      await retire(host, name);
      break;
    case 'reclaimed':
      await host.exports.stop(name);
      break;
    default:
      // lent, fenced: the next host still reads. relocating: it goes on until it is complete.
      break;
  }
}

async function attempt(otherwise: string, what: () => Promise<void>): Promise<void> {
  try {
    await what();
  } catch (error) {
    log.warning(`${otherwise}: ${(error as Error).message}`);
  }
}
