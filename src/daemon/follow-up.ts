/**
 * What follows for a disk from what its export reports: one that has moved away is retired, one that came
 * back or was reclaimed is ended when no guest uses it, and the guest's metadata follows the generation. And
 * which exports must run at all.
 */
import type { ExportStatus } from '../control/status.ts';
import type { ExportRecord } from '../store/records/record.ts';
import { abandonOthers } from './disks/arrival.ts';
import { retire } from './disks/retirement.ts';
import type { Host } from './host.ts';
import { inTheBackground } from './in-the-background.ts';

export function followUp(host: Host): void {
  host.exports.on('status', (status, before) => {
    if (status.state === 'lent') host.unused.noteLent(status.name);
    // Its last client has gone.
    if (status.state === 'retired' && status.clients === 0 && (before?.clients ?? 0) > 0)
      inTheBackground(`disk ${status.name} could not be retired`, retire(host, status.name));
    if (status.state === before?.state && status.origin === before.origin) return;
    followState(host, status, before);
    followGeneration(host, status, before);
  });
  host.exports.on('ended', (name, orderly) => {
    if (orderly) host.unused.noteReturned(name);
    inTheBackground(`the end of export ${name} was not followed up`, abandonOthers(host, name));
  });
  host.moves.on('entered', ({ state, domain }) => {
    if (state === 'completed') host.writeOriginsSoon(domain.uuid);
  });
}

function followState(host: Host, status: ExportStatus, before: ExportStatus | undefined): void {
  const { name, state, origin, generation } = status;
  const isUsed = host.domains.using(name) !== undefined;
  // A disk that still has an origin has yet to tell it to retire.
  if (state === 'retired' && origin === null)
    inTheBackground(`disk ${name} could not be retired`, retire(host, name));
  if (state === 'reclaimed' && !isUsed)
    inTheBackground(`export ${name} could not be ended`, host.exports.stop(name));
  if (state !== 'serving' || before === undefined || isUsed) return;
  // The generation has grown: the disk was reclaimed and its former holder is refused, so nobody needs this
  // export. After GIVE_BACK it stays a while, because the answer may still be on its way.
  if (before.generation !== generation) host.unused.noteReturned(name);
  inTheBackground(`export ${name} could not be ended`, host.unused.endIfUnused(name));
}

/**
 * The metadata names the generation. Being lent changes nothing in it, and libvirt is busy migrating then.
 */
function followGeneration(host: Host, status: ExportStatus, before: ExportStatus | undefined): void {
  const user = host.domains.using(status.name);
  if (user === undefined || before === undefined || before.generation === status.generation) return;
  host.writeOriginsSoon(user.uuid);
}

/** Must an export with this record run? */
export function isNeeded({ domains, moves, unused }: Host, name: string, record: ExportRecord): boolean {
  // A retired disk has one duty left: its own origin, if it was never complete here, has to hear of it.
  if (record.state === 'retired') return record.origin !== null;
  if (record.state === 'reclaimed') return false;
  if (record.state === 'standby') return moves.ofExport(name) !== undefined;
  return (
    record.state !== 'serving' ||
    record.origin !== null ||
    domains.using(name) !== undefined ||
    unused.mustStay(name)
  );
}
