/** `xnbdctl delete`: deletes what is left here of a disk that is this host's no more. */
import { setTimeout as sleep } from 'node:timers/promises';
import { exportPaths, type HostPaths } from '../config/export-paths.ts';
import { deleteLeftovers } from '../store/records/delete-disk.ts';
import { readRecord } from '../store/records/record.ts';
import { lockState } from '../store/records/state-lock.ts';
import { connectIfRunning, knownExport } from './known-exports.ts';

const END_LIMIT_MS = 10_000;

/** @returns what is so now, in one line. @throws Error, one line: nothing has changed. */
export async function deleteLeft(paths: HostPaths, name: string, force: boolean): Promise<string> {
  const found = await knownExport(paths, name);
  if (found === undefined)
    throw new Error(`no disk ${name} on this host: 'xnbdctl list' shows those that are here`);
  if (found.state !== 'retired' && found.state !== 'reclaimed')
    throw new Error(
      `${name} is ${found.state}: only what is retired or reclaimed is left over, and may be deleted`,
    );
  if (found.clients > 0) throw new Error(`${name} has ${found.clients} clients still: end its guest first`);
  if (found.state === 'reclaimed' && !force) {
    throw new Error(
      `${found.image} may hold the last writes of ${name}'s guest, which no other host has; ` +
        `to delete them as well: xnbdctl delete ${name} --force`,
    );
  }
  await ended(paths, name);
  const { stateDir } = exportPaths(paths, name);
  const lock = await lockState(stateDir);
  try {
    const record = await readRecord(stateDir);
    if (record?.state !== found.state) throw new Error(`${name} is ${record?.state ?? 'gone'} by now`);
    if (record.state === 'retired' && record.origin !== null)
      throw new Error(
        `${name} still has to tell its own origin, ${record.origin.uri}, that it has retired: wait until it has`,
      );
    return `${name}: ${await deleteLeftovers(paths, name, record)}`;
  } finally {
    await lock.release();
  }
}

/** Ends its process, if there is one. */
async function ended(paths: HostPaths, name: string): Promise<void> {
  const { ctl } = exportPaths(paths, name);
  const client = await connectIfRunning(ctl);
  if (client === undefined) return;
  await client.call('stop').finally(() => client.close());
  for (
    const deadline = performance.now() + END_LIMIT_MS;
    (await connectIfRunning(ctl)) !== undefined;
    await sleep(50)
  )
    if (performance.now() > deadline) throw new Error(`${name} does not end`);
}
