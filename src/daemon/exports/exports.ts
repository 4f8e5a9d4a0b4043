/**
 * The exports of this host: found, watched, started, started again, ended.
 *
 * What an export is stands in its record on disk, how it does is said on its control socket; this keeps
 * neither for itself, so a daemon that comes back finds everything again by looking. The process of an export
 * that is needed (`isNeeded`) and ends is started again with what its record says, after a pause that grows
 * while it keeps ending.
 */
import { EventEmitter } from 'node:events';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ExportPaths, exportPaths, type HostPaths } from '../../config/export-paths.ts';

import { DoesNotAnswer, exportStatus } from '../../control/client.ts';
import type { ControlMethod, MethodParameters } from '../../control/methods.ts';

import type { ExportStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import { exportNames } from '../../store/records/export-names.ts';
import { checkExportName, type ExportRecord, readRecord } from '../../store/records/record.ts';
import { inTheBackground } from '../in-the-background.ts';
import type { ArrivingOrigin } from './arguments.ts';
import { type ExportLink, openExportLink } from './export-link.ts';
import { exportRuns } from './export-process.ts';
import type { Launcher } from './launcher.ts';

const firstPauseMs = 200;
const longestPauseMs = 15_000;
/** An export that has run this long does not keep ending: when it ends now, it is started at once. */
const steadyMs = 10_000;
/** For so long the start of the daemon, and with it the first hook, waits for exports. */
const findLimitMs = 5000;
/** For so long a process that takes over may load itself. */
const takeOverLimitMs = 20_000;

export interface ExportsEvents {
  /** A status arrived; the second is what was known until now. */
  status: [status: ExportStatus, before: ExportStatus | undefined];
  /** An export ended. Orderly: it was told to, by the daemon or by an administrator. */
  ended: [name: string, orderly: boolean];
}

/** True while the export must run: a guest uses it, or a move does. */
export type IsNeeded = (name: string, record: ExportRecord) => boolean;

interface Entry {
  link: ExportLink | undefined;
  status: ExportStatus | undefined;
  /** The daemon itself is ending it: its end is no fault. */
  ending: boolean;
  /** Once the link has broken: whether another process has taken over. */
  handedOver?: Promise<boolean>;
  pauseMs: number;
}

export class Exports extends EventEmitter<ExportsEvents> {
  readonly #paths: HostPaths;
  readonly #launcher: Launcher;
  /** Before `find` nothing is. */
  #isNeeded: IsNeeded = () => false;
  readonly #entries = new Map<string, Entry>();
  /** Starts under way, so that an export which two hooks want is started once. */
  readonly #starting = new Map<string, Promise<ExportStatus>>();
  #closed = false;

  constructor(paths: HostPaths, launcher: Launcher) {
    super();
    this.#paths = paths;
    this.#launcher = launcher;
  }

  paths(name: string): ExportPaths {
    return exportPaths(this.#paths, name);
  }

  /** The record on disk; undefined where this host does not know the name. */
  record(name: string): Promise<ExportRecord | undefined> {
    checkExportName(name);
    return readRecord(this.paths(name).stateDir);
  }

  /** The last status of a running export. */
  status(name: string): ExportStatus | undefined {
    return this.#entries.get(name)?.status;
  }

  running(): ExportStatus[] {
    return [...this.#entries.values()].flatMap((entry) => entry.status ?? []);
  }

  /** Names with a control socket or a record here, in order. */
  names(): Promise<string[]> {
    return exportNames(this.#paths);
  }

  /**
   * Takes up every export that runs, and from now on sees to it that those run that are needed.
   * @returns what is not done after five seconds, because an export hangs or starts slowly, or starts only
   * once the daemon is ready: each name, and when it is done with
   */
  async find(isNeeded: IsNeeded): Promise<Map<string, Promise<void>>> {
    this.#isNeeded = isNeeded;
    const late = new Map<string, Promise<void>>();
    const starting = new Set<string>();
    const looks = (await this.names()).map((name) => {
      const { promise: begun, resolve } = Promise.withResolvers<undefined>();
      const found = this.#find(name, () => {
        if (this.#launcher.startsAtOnce) return;
        starting.add(name);
        resolve(undefined);
      }).then(() => void late.delete(name));
      late.set(name, found);
      return Promise.race([found, begun]);
    });
    await Promise.race([Promise.all(looks), sleep(findLimitMs, undefined, { ref: false })]);
    for (const name of late.keys()) {
      if (!starting.has(name))
        log.warning(`export ${name} does not answer yet: it is taken up when it does`, {
          id: 'export-hangs',
          export: name,
        });
    }
    return late;
  }

  /** @param begins called when the export does not run, and is started */
  async #find(name: string, begins: () => void): Promise<void> {
    try {
      if (await this.#watchPatiently(name)) return;
      const record = await this.record(name);
      if (record === undefined || !this.#isNeeded(name, record)) return;
      begins();
      await this.ensure(name);
    } catch (error) {
      log.error(`export ${name} could not be taken up: ${(error as Error).message}`, {
        id: 'export-fails',
        export: name,
      });
      void this.#startAgain(name, firstPauseMs, (error as Error).message);
    }
  }

  /** As `#watch`; one that hangs is waited for, because a second process on its image would be fatal. */
  async #watchPatiently(name: string): Promise<boolean> {
    for (let told = false; ; told = true) {
      try {
        return await this.#watch(name);
      } catch (error) {
        if (!told)
          log.warning(`export ${name} hangs: ${(error as Error).message}`, {
            id: 'export-hangs',
            export: name,
          });
        await sleep(firstPauseMs);
      }
    }
  }

  /**
   * Watches an export that runs; false when there is none. @param status of the process before this one, if
   * that handed over. @throws DoesNotAnswer when it hangs.
   */
  async #watch(name: string, status?: ExportStatus): Promise<boolean> {
    const known = this.#entries.get(name);
    if (known?.link !== undefined || this.#closed) return true;
    const entry: Entry = {
      link: undefined,
      status,
      ending: false,
      pauseMs: known?.pauseMs ?? firstPauseMs,
    };
    try {
      entry.link = await openExportLink(this.paths(name).ctl, {
        status: (status) => {
          const before = entry.status;
          entry.status = status;
          this.emit('status', status, before);
        },
        gone: () => void this.#gone(name, entry),
      });
    } catch (error) {
      if (error instanceof DoesNotAnswer) throw error;
      return false;
    }
    if (this.#isClosed() || this.#entries.has(name)) {
      entry.link.close();
      return true;
    }
    this.#entries.set(name, entry);
    if (entry.status !== undefined)
      inTheBackground(
        `the gateway may not reach export ${name}`,
        this.#launcher.found(name, entry.status.pid),
      );
    log.info(`export ${name} is up: ${entry.status?.state}, pid ${entry.status?.pid}`, {
      id: 'export-up',
      export: name,
    });
    return true;
  }

  /**
   * Sees to it that an export with a record runs.
   * @throws Error with the export's own words when it does not start.
   */
  async ensure(name: string, signal?: AbortSignal): Promise<ExportStatus> {
    const running = (await this.#watch(name)) ? this.status(name) : undefined;
    if (running !== undefined) return running;
    if ((await this.record(name)) === undefined) throw new Error(`this host has no record of export ${name}`);
    return this.#start(name, undefined, signal);
  }

  /**
   * Starts an arriving disk, as `standby`. @throws Error with the export's own words when it does not start.
   */
  async arrive(name: string, origin: ArrivingOrigin, signal?: AbortSignal): Promise<ExportStatus> {
    return await this.#start(name, origin, signal);
  }

  #start(name: string, arrival?: ArrivingOrigin, signal?: AbortSignal): Promise<ExportStatus> {
    const under = this.#starting.get(name);
    if (under !== undefined) return under;
    const start = (async () => {
      await this.#launcher.start(name, arrival, signal);
      const status = (await this.#watch(name)) ? this.status(name) : undefined;
      if (status === undefined) throw new Error(`export ${name} ended right after its start`);
      return status;
    })().finally(() => this.#starting.delete(name));
    this.#starting.set(name, start);
    return start;
  }

  /**
   * Asks an export how it is, where what it reported last may be too old to decide by. What was known, where
   * it does not answer.
   */
  async statusNow(name: string): Promise<ExportStatus | undefined> {
    const now = await this.#entries
      .get(name)
      ?.link?.status()
      .catch(() => undefined);
    return now ?? this.status(name);
  }

  /** Asks a running export. @throws Error with its words when it refuses or does not run. */
  call(
    name: string,
    method: ControlMethod,
    parameters: MethodParameters = {},
    limitMs?: number,
  ): Promise<unknown> {
    const link = this.#entries.get(name)?.link;
    if (link === undefined) return Promise.reject(new Error(`export ${name} does not run`));
    return link.call(method, parameters, limitMs);
  }

  /** Ends an export's process and keeps everything on disk. Nothing happens when it does not run. */
  async stop(name: string): Promise<void> {
    await this.#end(name, 'stop');
  }

  /**
   * Gives an arrival up: the origin is given back, image, map and record are deleted.
   * @throws Error when the export refuses, because a write has been acknowledged.
   */
  async abandon(name: string): Promise<void> {
    await this.#end(name, 'abandon');
  }

  async #end(name: string, method: 'stop' | 'abandon'): Promise<void> {
    const entry = this.#entries.get(name);
    if (entry?.link === undefined || entry.status === undefined) return;
    const { pid } = entry.status;
    entry.ending = true;
    try {
      await entry.link.call(method);
    } catch (error) {
      // An export may end before its answer has been read.
      if (await this.#stillRuns(pid, name)) {
        entry.ending = false;
        throw error;
      }
      // It ended because another process took over, and that has not been told yet.
      if ((await entry.handedOver) === true) {
        await this.#end(name, method);
        return;
      }
    }
    if (await this.#stillRuns(pid, name)) {
      log.warning(`export ${name} (pid ${pid}) did not end after '${method}': it is killed`, {
        id: 'export-killed',
        export: name,
      });
      await this.#launcher.kill(name, pid);
    }
    if (this.#starting.has(name)) return;
    // One that was killed while it ended leaves its sockets.
    const { socket, ctl } = this.paths(name);
    for (const path of [socket, ctl]) await rm(path, { force: true });
  }

  async #stillRuns(pid: number, name: string): Promise<boolean> {
    for (let waited = 0; waited < 5000; waited += 20) {
      if (!(await exportRuns(pid, name))) return false;
      await sleep(20);
    }
    return true;
  }

  /**
   * Ends what an earlier daemon was starting when it was killed, and what has no record yet: it would take
   * the name, and what lies there by then, for its own.
   */
  async endStrays(name: string): Promise<void> {
    if (this.#entries.has(name) || this.#starting.has(name)) return;
    for (const stray of await this.#launcher.killStrays(name)) {
      log.warning(`export ${name} (${stray}), which was still starting, is ended: it was given up`, {
        id: 'export-killed',
        export: name,
      });
    }
  }

  /** Another process has taken the export over, with its clients: nothing has ended. */
  async #handedOver(name: string, { status: before }: Entry): Promise<boolean> {
    const { ctl } = this.paths(name);
    const after = await exportStatus(ctl, takeOverLimitMs).catch(() => undefined);
    if (before === undefined || after === undefined || after.pid === before.pid) return false;
    log.info(
      `export ${name}: process ${before.pid} (release ${before.release}) is replaced by ${after.pid} (release ${after.release})`,
      { export: name },
    );
    return await this.#watch(name, before).catch(() => false);
  }

  async #gone(name: string, entry: Entry): Promise<void> {
    if (this.#entries.get(name) === entry) this.#entries.delete(name);
    if (this.#closed || (await this.#launcher.hostGoesDown())) return;
    entry.handedOver = this.#handedOver(name, entry);
    if ((await entry.handedOver) || this.#isClosed()) return;
    // One that is told to end takes its sockets away.
    this.emit('ended', name, !existsSync(this.paths(name).ctl));
    if (entry.ending) return;
    log.warning(`export ${name} (pid ${entry.status?.pid}) is gone`, { id: 'export-gone', export: name });
    // A broken control link is no proof of a dead process, and a second process on one image would be fatal.
    while (entry.status !== undefined && (await exportRuns(entry.status.pid, name))) {
      if (await this.#watchPatiently(name)) return;
      await sleep(firstPauseMs);
    }
    await this.#startAgain(name, entry.pauseMs);
  }

  /** @param told what is in the log already of why it does not start */
  async #startAgain(name: string, pauseMs: number, told = ''): Promise<void> {
    let said = told;
    if (pauseMs > firstPauseMs) await sleep(pauseMs);
    for (let pause = pauseMs; !this.#closed; pause = Math.min(pause * 2, longestPauseMs)) {
      try {
        const record = await this.record(name);
        if (record === undefined || !this.#isNeeded(name, record)) return;
        await this.ensure(name);
        const entry = this.#entries.get(name);
        if (entry !== undefined) entry.pauseMs = Math.min(pause * 2, longestPauseMs);
        setTimeout(() => {
          if (entry !== undefined) entry.pauseMs = firstPauseMs;
        }, steadyMs).unref();
        return;
      } catch (error) {
        const message = (error as Error).message;
        if (message !== said)
          log.error(`export ${name} does not start, and is tried again: ${message}`, {
            id: 'export-fails',
            export: name,
          });
        said = message;
        await sleep(pause);
      }
    }
  }

  #isClosed(): boolean {
    return this.#closed;
  }

  /** Lets go of every export; their processes go on. */
  close(): void {
    this.#closed = true;
    for (const entry of this.#entries.values()) entry.link?.close();
    this.#entries.clear();
  }
}
