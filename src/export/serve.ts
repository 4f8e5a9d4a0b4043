/**
 * What every export does, target or proxy: open its sockets, say that it is ready, serve, and stop cleanly.
 * Target and proxy give the disk and what is special about it (`Served`).
 */
import { once } from 'node:events';
import packageJson from '../../package.json' with { type: 'json' };
import { type Address, formatAddress } from '../config/address.ts';
import type { ExportMethods, MethodParameters } from '../control/methods.ts';
import { ControlServer } from '../control/server.ts';
import { type ExportStatus, emptyStatus } from '../control/status.ts';
import { log } from '../log/log.ts';
import type { DiskSettings } from '../store/records/disk-settings.ts';
import { leaseTag } from '../store/records/lease-tag.ts';
import type { RecordKeeper } from '../store/records/record-keeper.ts';
import type { Disk } from './disk.ts';
import { Export } from './export.ts';
import { type DiskHandOver, HandOver } from './hand-over/hand-over.ts';
import { openDoors } from './hand-over/open-doors.ts';
import { hasServiceStore } from './hand-over/service-store.ts';
import type { Taken } from './hand-over/taken.ts';
import type { LenderOptions } from './lending/lender.ts';
import { keepServiceManagerTold } from './service.ts';
import { Listener } from './session/listener.ts';

/** A client that does not read its last replies is cut off after this. */
const STOP_LIMIT_MS = 10_000;

export interface ServeOptions {
  /** Path of the NBD socket. */
  socket: string;
  /** Group that may connect to it besides root; default: QEMU's, as the distribution calls it. */
  socketGroup?: string | undefined;
  /** Path of the control socket. */
  ctl: string;
  listen?: Address | undefined;
  readOnly: boolean;
  sourceGone: LenderOptions['sourceGone'];
}

/** One disk and its particulars. */
export interface Served extends Pick<LenderOptions, 'baseState' | 'canLend' | 'onRetired'> {
  keeper: RecordKeeper;
  disk: Disk;
  /** The origin, where there is one, cannot be reached. */
  originAway?(): boolean;
  /** Where there is, or was, an origin to copy from. */
  settings?: DiskSettings;
  /** The daemon deals out what the host may fetch: bit/s, null for no cap; and why it is nothing. */
  tellShare?(share: { rate: number | null; why: string | null }): void;
  /** Status fields that this kind of export knows better. */
  describe(): Partial<ExportStatus>;
  /** Control method `takeover`. @throws Error of one line */
  takeover(): Promise<void>;
  /**
   * Control method `abandon`: afterwards the process ends without touching the disk again. @throws Error of
   * one line
   */
  abandon(): Promise<void>;
  /** Control methods, where there may be an origin to compare with. @throws Error of one line */
  verification?: { verify(): void; accept(): Promise<void> };
  handOver: DiskHandOver;
  /** Closes image, map and link; the last request has been answered and the disk flushed. */
  close(): Promise<void>;
}

export interface RunningExport {
  readonly export: Export;
  /** Tells watchers of the control socket that the status has changed. */
  changed(): void;
  readonly status: () => ExportStatus;
  /** Where TCP clients connect, when asked for. */
  readonly tcp: Address | undefined;
  /** Finishes requests, syncs, closes. @returns the exit code */
  stop(): Promise<number>;
  readonly handOver: HandOver;
  /** Resolves with the exit code once the export has stopped, for whatever reason. */
  readonly ended: Promise<number>;
}

/**
 * @param taken what an earlier process of the disk has handed over; null: it begins by itself.
 * @throws Error of one line when a socket cannot be had.
 */
export async function serve(
  options: ServeOptions,
  served: Served,
  taken: Taken | null = null,
): Promise<RunningExport> {
  const { keeper, disk } = served;
  const control: ControlServer = new ControlServer({
    status: () => status(options, served, running),
    refuses: (): string | null =>
      handOver.holds ? `${running.name} is being handed to a new process: ask again` : null,
    methods: {
      ...methodsOf(served, () => running),
      stop: async () => {
        if ((await stop()) !== 0)
          throw new Error(`export ${running.name} stopped, but its last flush failed`);
      },
      restart: () => {
        // The main process of a unit is systemd's to replace.
        if (hasServiceStore()) throw new Error(`its process is systemd's: systemctl restart its unit`);
        return handOver.toSuccessor();
      },
    },
    answered: (method) => {
      if (method === 'abandon') void finish(() => Promise.resolve(0));
    },
  });
  const running = new Export({
    record: keeper.record,
    disk,
    readOnly: options.readOnly,
    lending: {
      persist: keeper.update,
      baseState: () => served.baseState(),
      canLend: () => served.canLend(),
      sourceGone: options.sourceGone,
      onRetired: () => served.onRetired(),
    },
    changed: () => control.changed(),
  });
  const listener = new Listener(running);
  const handOver: HandOver = new HandOver({
    exported: running,
    listener,
    control,
    release: packageJson.version,
    disk: served.handOver,
  });

  const { promise: ended, resolve: resolveEnded } = Promise.withResolvers<number>();
  let finishing: Promise<number> | undefined;
  const finish = (last: () => Promise<number>): Promise<number> => {
    finishing ??= (async () => {
      await handOver.over();
      listener.close();
      const code = await last();
      // The client of the control socket that asked gets its answer first.
      void control.close().then(() => resolveEnded(code));
      return code;
    })();
    return finishing;
  };
  const stop = () =>
    finish(async () => {
      const errno = await running.stop({
        limitMs: STOP_LIMIT_MS,
        originAway: () => served.originAway?.() ?? false,
      });
      if (errno !== 0)
        log.error(`the last flush failed (${errno}); recent writes may be lost`, {
          id: 'export-flush-failed',
        });
      await served.close();
      return errno === 0 ? 0 : 1;
    });

  const tcp = await openDoors(options, { running, listener, control }, taken).catch(
    async (error: unknown) => {
      listener.close();
      await control.close();
      throw error;
    },
  );
  return {
    export: running,
    changed: () => control.changed(),
    status: () => status(options, served, running),
    ...{ tcp, stop, handOver, ended },
  };
}

/** What the control socket can ask of any export. @param exported the export, which comes later */
function methodsOf(served: Served, exported: () => Export): Omit<ExportMethods, 'stop' | 'restart'> {
  const compare = (method: 'verify' | 'accept') => {
    if (served.verification === undefined)
      throw new Error(`${exported().name} has no origin any more: there is nothing to compare it with`);
    return served.verification[method]();
  };
  const set = (key: string, text: string) => {
    if (served.settings === undefined)
      throw new Error(`export ${exported().name} has no origin: its settings are about copying from one`);
    return served.settings.choose(key, text);
  };
  return {
    takeover: () => served.takeover(),
    'source-gone': () => ({ told: exported().lender.sourceGone() }),
    'source-leaves': () => ({ told: exported().lender.sourceLeaves() }),
    'new-guest': () => exported().lender.newGuest(),
    reclaim: () => exported().lender.reclaim(),
    abandon: () => {
      const { name, lender } = exported();
      if (lender.lease !== null) {
        throw new Error(
          `export ${name} is ${lender.state}: the next host (lease ${leaseTag(lender.lease)}) reads from it; give that move up first`,
        );
      }
      return served.abandon();
    },
    verify: () => compare('verify'),
    accept: () => compare('accept'),
    set: ({ key, value }) => set(String(key), String(value)),
    share: (parameters) => served.tellShare?.(shareIn(parameters)),
    'origin-timeout': ({ timeout }) => set('origin-timeout', String(timeout)),
  };
}

/** @throws Error of one line */
function shareIn({ rate, why = null }: MethodParameters): { rate: number | null; why: string | null } {
  const isRate = rate === null || (typeof rate === 'number' && rate >= 0 && Number.isFinite(rate));
  if (isRate && (why === null || typeof why === 'string')) return { rate, why };
  throw new Error('a share has "rate", bit/s or null, and may have "why", a line');
}

function status(options: ServeOptions, served: Served, running: Export): ExportStatus {
  const { record } = served.keeper;
  const { lender } = running;
  return {
    ...emptyStatus,
    name: record.name,
    uuid: record.uuid,
    generation: record.generation,
    state: lender.state === 'serving' ? served.baseState() : lender.state,
    pid: process.pid,
    release: packageJson.version,
    sizeBytes: record.sizeBytes,
    presentBytes: record.sizeBytes,
    origin: record.origin?.uri ?? null,
    onDemandBytes: record.onDemandBytes,
    backgroundBytes: record.backgroundBytes,
    skippedBytes: record.skippedBytes,
    secondsSinceTakeover: record.relocationSeconds,
    image: record.image,
    socket: options.socket,
    clients: running.clients,
    lease: leaseTag(lender.lease),
    movedTo: record.movedTo?.host ?? null,
    movedAt: record.movedTo?.at ?? null,
    writtenBytes: running.writtenBytes,
    settings: served.settings?.texts ?? {},
    ...served.describe(),
  };
}

/**
 * Prints the ready line, then serves until the export is stopped by SIGTERM, SIGINT or its control socket.
 * @returns the exit code
 */
export async function serveUntilStopped(options: ServeOptions, running: RunningExport): Promise<number> {
  const { name, state } = running.status();
  const abort = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    void once(process, signal, { signal: abort.signal }).then(
      async () => {
        if (signal === 'SIGTERM') await leaveToServiceManager(running);
        await running.stop();
      },
      () => undefined,
    );
  }
  log.info(`${state} on ${options.socket}${where(running.tcp)}`, { id: 'export-serves' });
  // The process that started this one may have closed the pipe.
  process.stdout.on('error', () => undefined);
  process.stdout.write(`ready ${name} ${state} ${options.socket}\n`);
  const told = keepServiceManagerTold(running.status);
  const code = await running.ended;
  told.end();
  abort.abort();
  log.info('stopped', { id: 'export-stopped' });
  return code;
}

/** One that may start another process: that takes over. Returns where there is none. */
async function leaveToServiceManager(running: RunningExport): Promise<void> {
  if (!hasServiceStore()) return;
  await running.handOver.toServiceManager().catch((error: unknown) => {
    log.warning(`clients are disconnected: ${(error as Error).message}`);
  });
}

function where(tcp: Address | undefined): string {
  return tcp === undefined ? '' : ` and ${formatAddress(tcp)}`;
}
