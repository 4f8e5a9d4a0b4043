/**
 * Exports as units of systemd, `xnbd-export@NAME.service`, which are nobody's children: nothing that happens
 * to the daemon touches them.
 *
 * The unit runs `xnbd-export unit NAME`, which reads the record and xnbd.conf itself, so systemd, an
 * administrator and the daemon all start the same. One that dies is started again by systemd, at once and
 * without a daemon; one that does not start, or dies again and again, is left to the daemon, which tries it
 * with growing pauses (exports.ts). A StartUnit for a unit that systemd is about to start again waits for
 * that.
 *
 * Exports that an earlier release, or a daemon without systemd, has started as its children go on as they
 * are, and have a unit from their next start on.
 */
import { exportPaths, type HostPaths } from '../../config/export-paths.ts';
import { exportStatus } from '../../control/client.ts';
import type { ExportStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import { readRecord } from '../../store/records/record.ts';
import { openToGateway } from '../../system/socket-access.ts';
import type { ServiceUnits } from '../../system/systemd/service-units.ts';
import { exportUnit } from '../../system/systemd/unit-name.ts';
import type { ArrivingOrigin } from './arguments.ts';
import { removeArrivalNote, removeArrivalNotes, writeArrivalNote } from './arrival-note.ts';
import { exportsWith, killExport } from './export-process.ts';
import { type Launcher, startLimitMs } from './launcher.ts';
import { grantImage } from './unit-rights.ts';

const SIGKILL = 9;
const alive = new Set(['active', 'activating', 'deactivating', 'reloading']);

export class UnitLauncher implements Launcher {
  /** The units come after xnbdd.service, so that they are ended before it when the host goes down. */
  readonly startsAtOnce = false;
  readonly #paths: HostPaths;
  readonly #units: ServiceUnits;

  private constructor(paths: HostPaths, units: ServiceUnits) {
    this.#paths = paths;
    this.#units = units;
  }

  static async open(paths: HostPaths, units: ServiceUnits): Promise<UnitLauncher> {
    await removeArrivalNotes(paths.run);
    return new UnitLauncher(paths, units);
  }

  async start(name: string, arrival?: ArrivingOrigin, signal?: AbortSignal): Promise<ExportStatus> {
    const unit = exportUnit(name);
    const limit = AbortSignal.timeout(startLimitMs);
    try {
      if (arrival !== undefined) await writeArrivalNote(this.#paths.run, name, arrival);
      const { image, stateDir } = exportPaths(this.#paths, name);
      const record = arrival === undefined ? await readRecord(stateDir) : undefined;
      if (await grantImage(this.#paths, name, record?.image ?? image)) await this.#units.reload();
      const result = await this.#units.start(unit, AbortSignal.any([limit, ...(signal ? [signal] : [])]));
      if (result !== 'done') throw new Error(await this.#lastWords(unit, result));
      return await exportStatus(exportPaths(this.#paths, name).ctl, startLimitMs);
    } catch (error) {
      if (signal?.aborted !== true && !limit.aborted) throw error;
      await this.#end(unit);
      if (signal?.aborted === true) throw signal.reason;
      throw new Error(`${unit} was not ready within ${startLimitMs / 1000} s; see journalctl -u '${unit}'`);
    } finally {
      await removeArrivalNote(this.#paths.run, name);
    }
  }

  /** One that is no unit has a socket that its unit's gateway could not reach. */
  async found(name: string, pid: number): Promise<void> {
    const main = await this.#units.property(exportUnit(name), 'Service', 'MainPID');
    if (main !== pid) openToGateway(exportPaths(this.#paths, name).socket);
  }

  async kill(name: string, pid: number): Promise<void> {
    const unit = exportUnit(name);
    if ((await this.#units.property(unit, 'Service', 'MainPID')) === pid) await this.#end(unit);
    await killExport(pid, name);
  }

  async killStrays(name: string): Promise<string[]> {
    const unit = exportUnit(name);
    const pids = await exportsWith(exportPaths(this.#paths, name).stateDir);
    for (const pid of pids) await killExport(pid, name);
    const state = String(await this.#units.property(unit, 'Unit', 'ActiveState'));
    if (alive.has(state)) await this.#end(unit);
    return [...pids.map((pid) => `pid ${pid}`), ...(alive.has(state) ? [unit] : [])];
  }

  async hostGoesDown(): Promise<boolean> {
    return await this.#units.hostGoesDown().catch((error: unknown) => {
      log.warning(`systemd does not tell whether the host goes down: ${(error as Error).message}`);
      return false;
    });
  }

  /** What the export last told systemd is why it has ended. */
  async #lastWords(unit: string, result: string): Promise<string> {
    const said = String(await this.#units.property(unit, 'Service', 'StatusText'));
    return said === '' ? `${unit} did not start (${result}): see journalctl -u '${unit}'` : said;
  }

  /** The stop is queued first, so that systemd does not start again what is killed. */
  async #end(unit: string): Promise<void> {
    const stopped = this.#units.stop(unit);
    await this.#units.kill(unit, SIGKILL).catch((error: unknown) => {
      log.debug(`${unit} is gone already: ${(error as Error).message}`);
    });
    await stopped;
  }
}
