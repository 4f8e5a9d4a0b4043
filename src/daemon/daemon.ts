/**
 * The daemon, wired: exports report, relocations learn from them, and here stands what follows from each
 * change. It keeps nothing that it cannot find again (records, run directory, relocation files), so it may
 * die and come back at any time.
 */
import { dirname, join } from 'node:path';
import { type Config, formatAddress } from '../config/config.ts';
import type { ExportStatus } from '../control/protocol.ts';
import { log } from '../log/log.ts';
import { originArguments } from '../pki/host-party.ts';
import { makeDirectory } from '../store/directory.ts';
import { sweepDeparted } from '../store/records/departed.ts';
import { diskName, type ExportRecord } from '../store/records/record.ts';
import { Publisher } from './dbus/publisher.ts';
import { discard, giveUp } from './disks/arrival.ts';
import { putBack, settleName } from './disks/older-generations.ts';
import { retire } from './disks/retirement.ts';
import { Exports } from './exports/exports.ts';
import { Idle } from './exports/unused-exports.ts';
import { type GuestWatch, watchGuests } from './guests/watch-guests.ts';
import { answerHook } from './hooks/dispatch.ts';
import { openAnnouncements, sweepAnnouncements } from './hooks/libxl-announcements.ts';
import { serveHooks } from './hooks/server.ts';
import type { Host } from './host.ts';
import { Turns } from './keyed-queue.ts';
import { Domains } from './registry/domains.ts';
import type { RelocationRecord } from './registry/move-file.ts';
import { Relocations } from './registry/moves.ts';

const hookLimitMs = 25_000;
const tickMs = 1000;
const sweepEveryTicks = 60;
const expireAgainMs = 10_000;

export interface DaemonOptions {
  config: Config;
  /** The program of an export (export-process.ts). */
  exportProgram: string;
  version: string;
}

export interface Daemon {
  /** Ends the daemon; every export and every relocation goes on without it. */
  close(): Promise<void>;
}

/** Starts the daemon; it answers hooks when this resolves. @throws Error when it cannot. */
export async function startDaemon({ config, exportProgram, version }: DaemonOptions): Promise<Daemon> {
  const { paths } = config;
  const relocationsDir = join(dirname(paths.exports), 'relocations');
  for (const dir of [paths.images, paths.exports, paths.run, relocationsDir]) {
    await makeDirectory(dir, dir === paths.run ? 0o755 : 0o700);
  }

  const turns = new Turns();
  const domains = new Domains(paths.run);
  const relocations: Relocations = new Relocations(relocationsDir, {
    changed: (relocation) => publisher.relocation(relocation),
    moved: (relocation) => {
      logMove(relocation);
      if (relocation.state === 'completed') libvirt.announce.soon(relocation.domain.uuid);
    },
    canTell: () => publisher.connected,
    tell: (relocation, state) => publisher.tell(relocation, state),
    removed: (relocation) => publisher.removeRelocation(relocation),
  });
  const exports = new Exports(paths, exportProgram, {
    status: (status, before) => onStatus(status, before),
    ended: (name, orderly) => {
      if (orderly) idle.returned(name);
      publisher.removeExport(name);
      inTheBackground(`the end of export ${name} was not followed up`, afterAbandon(name));
    },
    needed: (name, record) => isNeeded(name, record),
    originArguments: async (uri) => [
      ...['--origin-timeout', String(config.relocation.originTimeoutSeconds ?? 'none')],
      ...(config.relocation.verify ? ['--verify'] : []),
      ...['--holder', formatAddress(config.gateway.advertise)],
      ...(await originArguments(uri, config.tls)),
    ],
  });
  const idle = new Idle(domains, exports);
  const publisher: Publisher = new Publisher({
    address: 'system',
    version,
    exports,
    domains,
    relocations,
    takeover: async (name) => {
      await exports.call(name, 'takeover');
    },
    abandon: (name) => abandon(name),
    verify: async (name) => {
      await exports.call(name, 'verify');
    },
    accept: async (name) => {
      await exports.call(name, 'accept');
    },
  });
  const host: Host = {
    config,
    exports,
    domains,
    relocations,
    idle,
    turns,
    announceOrigins: (uuid) => libvirt.announce.soon(uuid),
  };
  const libvirt: GuestWatch = watchGuests(host);

  function isNeeded(name: string, record: ExportRecord): boolean {
    // A retired disk has one duty left: its own origin, if it was never complete here, has to hear of it.
    if (record.state === 'retired') return record.origin !== null;
    if (record.state === 'reclaimed') return false;
    if (record.state === 'standby') return relocations.ofExport(name) !== undefined;
    return (
      record.state !== 'serving' ||
      record.origin !== null ||
      domains.using(name) !== undefined ||
      idle.keeps(name)
    );
  }

  function onStatus(status: ExportStatus, before: ExportStatus | undefined): void {
    const { name, state } = status;
    relocations.observe(status);
    publisher.export(status);
    publisher.originChanged(status, before);
    publisher.verificationChanged(status, before);
    logOrigin(status, before);
    if (state === 'lent') idle.lent(name);
    if (state === before?.state && status.origin === before.origin) return;
    if (before !== undefined && before.state !== state) {
      log.info(`disk ${name}: ${before.state}, now ${state}`, { export: name });
    }
    const user = domains.using(name);
    // One that still has an origin has yet to tell it to retire.
    if (state === 'retired' && status.origin === null)
      inTheBackground(`disk ${name} could not be retired`, retire(host, name));
    if (state === 'reclaimed' && user === undefined)
      inTheBackground(`export ${name} could not be ended`, exports.stop(name));
    if (state === 'serving' && before !== undefined && user === undefined) {
      // Reclaimed: who had it gets no answer but no. (To whom has given it back the answer may still be on
      // its way.)
      if (before.generation !== status.generation) idle.returned(name);
      inTheBackground(`export ${name} could not be ended`, idle.end(name));
    }
    // The metadata names the generation. Being lent changes nothing in it, and libvirt is busy migrating
    // then.
    if (user !== undefined && before !== undefined && before.generation !== status.generation) {
      libvirt.announce.soon(user.uuid);
    }
  }

  async function abandon(name: string): Promise<void> {
    const relocation = relocations.ofExport(name);
    if (relocation === undefined) await exports.abandon(name);
    else
      await turns.run(relocation.domain.uuid, () => giveUp(host, relocation, 'an administrator gave it up'));
  }

  /**
   * An administrator may have given up one disk by hand (xnbdctl abandon): then the others of its domain go
   * with it.
   */
  async function afterAbandon(name: string): Promise<void> {
    const relocation = relocations.ofExport(name);
    if (relocation === undefined || (await exports.record(name)) !== undefined) return;
    await turns.run(relocation.domain.uuid, async () => {
      if (relocations.ofExport(name) !== relocation || (await exports.record(name)) !== undefined) return;
      await giveUp(host, relocation, `disk ${name} was given back to its origin`);
    });
  }

  await openAnnouncements(config);
  await domains.load();
  await relocations.load();
  await exports.find();
  await tidy(host);
  await publisher.connect();
  await relocations.catchUp((name) => exports.record(name));
  const hooks = await serveHooks({
    path: join(paths.run, 'hook.sock'),
    limitMs: hookLimitMs,
    handle: (call, signal) => answerHook(host, call, signal),
  });
  libvirt.start();

  const expiring = new Set<string>();
  let ticks = 0;
  const timer = setInterval(() => {
    ticks += 1;
    expireLeases(host, expiring);
    inTheBackground('idle exports could not be ended', idle.sweep());
    if (ticks % sweepEveryTicks !== 0) return;
    inTheBackground('old announcements could not be swept', sweepAnnouncements(config));
    inTheBackground('old relocations could not be swept', relocations.sweep());
    inTheBackground('departed disks could not be swept', sweepDeparted(paths.exports));
  }, tickMs);

  return {
    async close() {
      clearInterval(timer);
      hooks.close();
      libvirt.close();
      exports.close();
      await relocations.settled();
      publisher.close();
    },
  };
}

function logOrigin(status: ExportStatus, before: ExportStatus | undefined): void {
  const { name, origin, originReachable, originUnreachableReason } = status;
  if (originReachable === (before?.originReachable ?? true)) return;
  if (originReachable) log.info(`disk ${name}: its origin can be reached again`, { export: name });
  else
    log.warning(`disk ${name}: its origin ${origin} is unreachable: ${originUnreachableReason}`, {
      export: name,
    });
}

function logMove(relocation: RelocationRecord): void {
  const { domain, state, disks } = relocation;
  if (state === 'relocating') log.info(`${domain.name} has arrived: its disks follow`, fieldsOf(relocation));
  if (state === 'failed') {
    log.warning(`the relocation of ${domain.name} is given up: ${relocation.reason}`, fieldsOf(relocation));
  }
  if (state !== 'completed') return;
  for (const [name, done] of Object.entries(disks)) {
    log.info(
      `disk ${name} of ${domain.name} is here completely: ${done?.onDemandBytes} bytes on demand, ${done?.backgroundBytes} in the background, ` +
        `${done?.skippedBytes} skipped, ${done?.secondsSinceTakeover.toFixed(1)} s after the takeover`,
      { ...fieldsOf(relocation), export: name },
    );
  }
}

/** Puts right what an earlier daemon left half done. */
async function tidy(host: Host): Promise<void> {
  for (const name of await host.exports.names()) {
    try {
      const record = await host.exports.record(name);
      if (record !== undefined && record.name !== name) await settleName(host, name, record);
      if (name !== diskName(name) && (await putBack(host, name))) await neverCame(host, diskName(name));
      if (record?.state === 'retired') await retire(host, name);
      if (record?.state === 'standby' && host.relocations.ofExport(name) === undefined)
        await discard(host, name);
    } catch (error) {
      log.error(`what is left of export ${name} could not be put right: ${(error as Error).message}`, {
        export: name,
      });
    }
  }
}

/** The daemon was killed while a disk arrived, and an older copy has its name again. */
async function neverCame(host: Host, name: string): Promise<void> {
  const relocation = host.relocations.ofExport(name);
  if (relocation?.state !== 'preparing') return;
  for (const other of Object.keys(relocation.disks)) {
    const state = (await host.exports.record(other))?.state;
    if (state === undefined || state === 'standby') await discard(host, other);
  }
  host.relocations.fail(relocation, `the daemon ended while disk ${name} was being set up`);
}

/** Gives up what stands by for a `prepare` that does not come. */
function expireLeases(host: Host, expiring: Set<string>): void {
  const { prepareTimeoutSeconds } = host.config.relocation;
  for (const relocation of host.relocations.all()) {
    const late = () =>
      relocation.state === 'preparing' &&
      !relocation.prepared &&
      Date.now() - Date.parse(relocation.leasedAt) > prepareTimeoutSeconds * 1000;
    // An attempt may take long; more of them in line would keep the domain's hooks waiting.
    if (!late() || expiring.has(relocation.id)) continue;
    expiring.add(relocation.id);
    const expire = host.turns.run(relocation.domain.uuid, async () => {
      if (late()) await giveUp(host, relocation, `libvirt did not go on within ${prepareTimeoutSeconds} s`);
    });
    const over = expire.finally(() =>
      setTimeout(() => expiring.delete(relocation.id), expireAgainMs).unref(),
    );
    inTheBackground(`the lease of ${relocation.domain.name} could not be given up`, over);
  }
}

function inTheBackground(otherwise: string, work: Promise<void>): void {
  work.catch((error: unknown) => log.error(`${otherwise}: ${(error as Error).message}`));
}

function fieldsOf(relocation: { domain: { name: string; uuid: string } }): Record<string, string> {
  return { domain: relocation.domain.name, domainUuid: relocation.domain.uuid };
}
