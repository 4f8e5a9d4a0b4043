/**
 * The daemon, wired. It keeps nothing that it cannot find again (records, run directory, files of moves), so
 * it may die and come back at any time. What follows from what its parts report is in follow-up.ts.
 */
import { chmod } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Config } from '../config/config.ts';
import { serveAbsentExports } from '../control/absent-exports.ts';
import { LibvirtClient } from '../libvirt/client.ts';
import { isActive } from '../libvirt/has-ended.ts';
import type { LogFields } from '../log/entry.ts';
import { handCertificates } from '../pki/hand-certificates.ts';
import { makeDirectory } from '../store/directory.ts';
import { whyAbsent } from '../store/records/absent.ts';
import { sweepDeparted } from '../store/records/departed.ts';
import { Publisher } from './dbus/publisher.ts';
import { UnixSockets } from './devices/devices.ts';
import { abandon } from './disks/arrival.ts';
import { overdueArrivals } from './disks/overdue-arrivals.ts';
import { putRight } from './disks/put-right.ts';
import { Exports } from './exports/exports.ts';
import type { Launcher } from './exports/launcher.ts';
import { UnusedExports } from './exports/unused-exports.ts';
import { followUp, isNeeded } from './follow-up.ts';
import { DepartingGuests } from './guests/departing-guests.ts';
import { GuestResumer } from './guests/guest-resumer.ts';
import { OriginMetadata } from './guests/origin-metadata.ts';
import { watchGuests } from './guests/watch-guests.ts';
import { answerHook, answerMissed } from './hooks/dispatch.ts';
import { openAnnouncements, sweepAnnouncements } from './hooks/libxl-announcements.ts';
import { openMissedEnds } from './hooks/missed-ends.ts';
import { serveHooks } from './hooks/server.ts';
import type { Host } from './host.ts';
import { inTheBackground } from './in-the-background.ts';
import { KeyedQueue } from './keyed-queue.ts';
import { Limits } from './limits/limits.ts';
import { logChanges } from './log-changes.ts';
import { knownFields } from './log-fields.ts';
import { Domains } from './registry/domains.ts';
import { Moves } from './registry/moves.ts';

const hookLimitMs = 25_000;
const tickMs = 1000;
const sweepEveryTicks = 60;

export interface DaemonOptions {
  config: Config;
  /** How exports are started and ended. */
  launcher: Launcher;
  version: string;
}

export interface Daemon {
  /** Of a line of the log: its domain and state, where it is about a disk. */
  knownFields(fields: LogFields): LogFields;
  /** Ends the daemon; every export and every move goes on without it. */
  close(): Promise<void>;
}

/** Starts the daemon; it answers hooks when this resolves. @throws Error when it cannot. */
export async function startDaemon({ config, launcher, version }: DaemonOptions): Promise<Daemon> {
  const { paths } = config;
  const movesDir = join(dirname(paths.exports), 'relocations');
  for (const dir of [paths.images, paths.exports, paths.run, movesDir]) {
    await makeDirectory(dir, dir === paths.run ? 0o755 : 0o700);
  }
  // Those who may not see what is there are to be told so, not that nothing is: what is in it is root's.
  await chmod(paths.exports, 0o711);

  const domains = new Domains(paths.run);
  const moves = new Moves(movesDir);
  const limits = new Limits(config);
  const exports = new Exports(paths, launcher);
  const unused = new UnusedExports(domains, exports);
  const libvirt = new LibvirtClient({ address: config.libvirt.dbus });
  const originMetadata = new OriginMetadata({ config, domains, exports, moves }, libvirt);
  const host: Host = {
    config,
    domains,
    moves,
    exports,
    unused,
    devices: new UnixSockets(exports),
    queue: new KeyedQueue(),
    isActive: (uuid) => isActive(libvirt, uuid),
    writeOriginsSoon: (uuid) => originMetadata.writeSoon(uuid),
  };
  const departing = new DepartingGuests({ domains, exports }, libvirt);
  const guests = watchGuests(host, libvirt);
  const resumer = new GuestResumer(host, libvirt);
  // Moves learn first: what follows from a status may depend on the move that the disk belongs to.
  exports.on('status', (status) => moves.observe(status));
  const publisher = new Publisher({
    address: 'system',
    version,
    exports,
    domains,
    moves,
    // An abandoned disk takes the others of its domain with it.
    limits,
    call: (name, method, parameters) =>
      method === 'abandon' ? abandon(host, name) : exports.call(name, method, parameters),
  });
  logChanges(host);
  followUp(host);

  await openAnnouncements(config);
  await openMissedEnds(config);
  await domains.load();
  await moves.load();
  await limits.start(exports);
  const late = await exports.find((name, record) => isNeeded(host, name, record));
  await host.devices.load();
  await putRight(host, late);
  await publisher.connect();
  await moves.catchUp((name) => exports.record(name));
  await answerMissed(host);
  const hooks = await serveHooks({
    path: join(paths.run, 'hook.sock'),
    limitMs: hookLimitMs,
    handle: (call, signal) => answerHook(host, call, signal),
  });
  const absent = await serveAbsentExports(paths.run, (name, asking) =>
    whyAbsent(paths.exports, name, asking),
  );
  libvirt.start();

  const giveUpOverdue = overdueArrivals(host);
  let ticks = 0;
  const timer = setInterval(() => {
    ticks += 1;
    giveUpOverdue();
    inTheBackground('missed hooks could not be answered', answerMissed(host));
    inTheBackground('unused exports could not be ended', unused.endThoseDue());
    if (ticks % sweepEveryTicks !== 0) return;
    inTheBackground('old announcements could not be swept', sweepAnnouncements(config));
    inTheBackground('the gateway has no copy of the certificate', handCertificates(config.tls));
    inTheBackground('old moves could not be swept', moves.sweep());
    inTheBackground('departed disks could not be swept', sweepDeparted(paths.exports));
  }, tickMs);

  return {
    knownFields: (fields) => knownFields(host, fields),
    async close() {
      clearInterval(timer);
      limits.close();
      hooks.close();
      absent.close();
      guests.close();
      resumer.close();
      departing.close();
      originMetadata.close();
      libvirt.close();
      exports.close();
      await moves.settled();
      publisher.close();
    },
  };
}
