/**
 * A domain is about to arrive: each of its disks gets a proxy in `standby`, which reads through to the origin
 * and keeps nothing. All disks of the domain or none: whatever goes wrong, what has been set up so far is
 * given back, and the guest runs on at the source.
 */
import { lstat, rm } from 'node:fs/promises';
import type { DomainInfo } from '../../libvirt/domain-xml.ts';
import { log } from '../../log/log.ts';
import { removeDurably } from '../../store/directory.ts';
import type { ArrivingOrigin } from '../exports/arguments.ts';
import type { Host } from '../host.ts';
import type { Move } from '../registry/move-file.ts';
import { checkFreeSpace } from './check-free-space.ts';
import { findOrigin } from './find-origin.ts';
import { putBack, setAside } from './older-generations.ts';

/**
 * Sets up every disk of the domain.
 * @throws Error with one line that says which disk cannot come and why; nothing is left behind then.
 */
export async function arrive(host: Host, domain: DomainInfo, signal: AbortSignal): Promise<Move> {
  const earlier = host.moves.ofDomain(domain.uuid);
  if (earlier?.state === 'preparing') await giveUp(host, earlier, 'libvirt began the migration anew');

  const origins = new Map<string, ArrivingOrigin>();
  for (const disk of domain.disks)
    origins.set(disk.export, await findOrigin(host.config, domain, disk.export));
  for (const name of origins.keys()) await makeWay(host, name);

  const move = await host.moves.begin(domain, [...origins.keys()]);
  try {
    const started = await Promise.allSettled(
      [...origins].map(([name, origin]) =>
        host.exports.arrive(name, origin, signal).catch((error: unknown) => {
          const { message } = error as Error;
          throw message.includes(name) ? error : new Error(`disk ${name}: ${message}`);
        }),
      ),
    );
    const refused = started.find((result) => result.status === 'rejected');
    if (refused !== undefined) throw refused.reason;
    const statuses = started.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    for (const status of statuses) {
      if (status.state !== 'standby')
        throw new Error(`export ${status.name} is ${status.state}, not standby`);
    }
    await checkFreeSpace(host, domain.name, statuses);
    signal.throwIfAborted();
    for (const { name, origin, sizeBytes } of statuses) {
      log.info(
        `${domain.name} is about to arrive: disk ${name}, ${sizeBytes} bytes, stands by at ${origin}`,
        {
          id: 'move-arriving',
          domain: domain.name,
          domainUuid: domain.uuid,
          export: name,
        },
      );
    }
    await host.moves.setLeased(move);
    return move;
  } catch (error) {
    await giveUp(host, move, (error as Error).message);
    throw error;
  }
}

/** Sees to it that the name is free on this host. @throws Error that says what has it. */
async function makeWay(host: Host, name: string): Promise<void> {
  const record = await host.exports.record(name);
  const { image, socket } = host.exports.paths(name);
  if (record === undefined && host.exports.status(name) !== undefined) {
    throw new Error(
      `an export ${name} runs on this host already, on ${socket}, started by hand: stop it first`,
    );
  }
  switch (record?.state) {
    case undefined:
      break;
    case 'retired':
    case 'reclaimed':
      await setAside(host, record);
      break;
    case 'standby':
      await discard(host, name);
      break;
    case 'fenced':
      // Its present map knows its image by its path.
      if (!record.complete) {
        throw new Error(
          `this host still lends an older copy of disk ${name} (generation ${record.generation}) to the host that it moved to, and misses blocks of it itself: wait until that is complete (xnbdctl status ${name})`,
        );
      }
      await setAside(host, record);
      break;
    case 'serving':
    case 'relocating':
      throw new Error(
        `disk ${name} is on this host already (${record.state}, generation ${record.generation}, ${record.image})`,
      );
  }
  if (await lstat(image).catch(() => undefined)) {
    throw new Error(`${image} is in the way of disk ${name} and belongs to no export: move it elsewhere`);
  }
}

/**
 * Gives a move up: every disk goes back to its origin and leaves nothing here.
 * @throws Error when a disk refuses, because a write of the guest has been acknowledged here.
 */
export async function giveUp(host: Host, move: Move, reason: string): Promise<void> {
  const names = Object.keys(move.disks);
  // Looked at once: one that is taken over while others are given up is not to be forgotten.
  const statuses = await Promise.all(names.map((name) => host.exports.statusNow(name)));
  const standing = names.filter((_, at) => (statuses[at]?.state ?? 'standby') === 'standby');
  // One of them may refuse; then the others stay here, too: a domain's disks are at one host.
  for (const name of names.filter((each) => !standing.includes(each))) await discard(host, name);
  const results = await Promise.allSettled(standing.map((name) => discard(host, name)));
  const refused = results.find((result) => result.status === 'rejected');
  if (refused !== undefined) throw refused.reason;
  host.moves.fail(move, reason);
  await host.moves.settled();
}

/**
 * An administrator gives up a disk that arrives: with it go the others of its domain. @throws Error when one
 * of them refuses.
 */
export async function abandon(host: Host, name: string): Promise<void> {
  const move = host.moves.ofExport(name);
  if (move === undefined) await host.exports.abandon(name);
  else await host.queue.run(move.domain.uuid, () => giveUp(host, move, 'an administrator gave it up'));
}

/**
 * An export has ended. If an administrator gave up its disk (xnbdctl abandon), the others of its domain go
 * with it.
 */
export async function abandonOthers(host: Host, name: string): Promise<void> {
  const move = host.moves.ofExport(name);
  const isGivenUp = async (): Promise<boolean> => (await host.exports.record(name)) === undefined;
  if (move === undefined || !(await isGivenUp())) return;
  await host.queue.run(move.domain.uuid, async () => {
    if (host.moves.ofExport(name) === move && (await isGivenUp()))
      await giveUp(host, move, `disk ${name} was given back to its origin`);
  });
}

/**
 * Undoes the arrival of one disk, whether its process runs or not. @throws Error when the disk belongs to
 * this host by now.
 */
export async function discard(host: Host, name: string): Promise<void> {
  const record = await host.exports.record(name);
  if (record?.state === 'relocating') await host.exports.ensure(name);
  // The export may have died while it took over, and only an export that knows the lease can lift the fence.
  if (record?.state === 'standby') {
    await host.exports.ensure(name).catch((error: unknown) => {
      log.warning(`disk ${name} is given up without a word to its origin: ${(error as Error).message}`, {
        export: name,
      });
    });
  }
  await host.exports.abandon(name);
  // What never came so far as to have a process that cleans up.
  const left = await host.exports.record(name);
  if (left !== undefined && left.state !== 'standby') return;
  await host.exports.endStrays(name);
  const paths = host.exports.paths(name);
  await removeDurably(paths.image);
  await removeDurably(paths.stateDir);
  await rm(paths.socket, { force: true });
  await rm(paths.ctl, { force: true });
  await putBack(host, name);
}
