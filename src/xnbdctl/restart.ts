/**
 * `xnbdctl restart` and `upgrade`: the process of a disk is replaced by a new one, of the program as it is
 * installed now, under its guest.
 */
import { readFile } from 'node:fs/promises';
import { exportPaths, type HostPaths } from '../config/export-paths.ts';
import { exportStatus, restartExport } from '../control/client.ts';
import type { ExportStatus } from '../control/status.ts';
import { exportUnit } from '../system/systemd/unit-name.ts';
import { connectRunning, type KnownExport, knownExports } from './known-exports.ts';

/** @returns what is so now, in one line. @throws Error naming the export and why it goes on as it is. */
export async function restart(path: string, name: string | undefined): Promise<string> {
  const before = await statusOf(path, name);
  const called = before.name;
  try {
    const unit = exportUnit(called);
    const after = (await isOf(before.pid, unit)) ? await restartUnit(unit, path) : await restartExport(path);
    if (after.pid === before.pid) throw new Error(`process ${after.pid} has not been replaced`);
    return `${called}: process ${before.pid} is replaced by ${after.pid}, release ${after.release}; ${after.clients} clients stay connected`;
  } catch (error) {
    const { message } = error as Error;
    if (!message.startsWith("no method 'restart'")) throw new Error(`${called}: ${message}`);
    throw new Error(
      `${called}: its process is of a release that cannot hand over: it runs on as it is; to change to the installed one shut its guest down and start it again`,
    );
  }
}

async function statusOf(path: string, name: string | undefined): Promise<ExportStatus> {
  const client = await connectRunning(path);
  try {
    const status = await client.status();
    if (name !== undefined && status.name !== name)
      throw new Error(`${path} is the socket of ${status.name}, not ${name}`);
    return status;
  } finally {
    client.close();
  }
}

/** A process is of a unit of systemd. */
async function isOf(pid: number, unit: string): Promise<boolean> {
  const groups = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
  return groups.split('\n').some((line) => line.includes(`/${unit}`));
}

/** @throws Error, one line, when systemd refuses, or the unit does not come up */
async function restartUnit(unit: string, path: string): Promise<ExportStatus> {
  // D-Bus costs every other command time that it has no use for.
  const { ServiceUnits } = await import('../system/systemd/service-units.ts');
  const units = new ServiceUnits();
  try {
    const result = await units.restart(unit);
    if (result !== 'done')
      throw new Error(`${unit} did not restart (${result}): see journalctl -u '${unit}'`);
    return await exportStatus(path);
  } finally {
    units.close();
  }
}

/** Which of them. */
export type Which = 'all' | 'older';

/** The exports that run, or those that run another release than the installed one. */
export async function running(paths: HostPaths, which: Which, installed: string): Promise<KnownExport[]> {
  const found = (await knownExports(paths)).filter(({ pid }) => pid !== null);
  return which === 'all' ? found : found.filter(({ release }) => release !== installed);
}

/**
 * One after the other. @param tell a line for each that is replaced.
 * @throws Error, a line for each that is not
 */
export async function restartEach(
  paths: HostPaths,
  names: readonly string[],
  tell: (line: string) => void,
): Promise<void> {
  const refusals: string[] = [];
  for (const name of names) {
    try {
      tell(await restart(exportPaths(paths, name).ctl, name));
    } catch (error) {
      refusals.push((error as Error).message);
    }
  }
  if (refusals.length > 0) throw new Error(refusals.join('\nxnbdctl: '));
}

/** What `xnbdctl upgrade` shows. */
export function upgradable(exports: readonly KnownExport[], installed: string): string {
  if (exports.length === 0) return `every disk is served by release ${installed}, which is installed`;
  const lines = exports.map(
    ({ name, release }) => `${name}: release ${release === '' ? 'older, it does not tell which' : release}`,
  );
  return [
    ...lines,
    `installed is release ${installed}: 'xnbdctl upgrade --all' replaces these processes under their guests`,
  ].join('\n');
}
