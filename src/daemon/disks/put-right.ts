/** What an earlier daemon left half done, because it was killed, is put right when the next one starts. */
import { log } from '../../log/log.ts';
import { diskName } from '../../store/records/record.ts';
import type { Host } from '../host.ts';
import { discard } from './arrival.ts';
import { finishRename, putBack } from './older-generations.ts';
import { retire } from './retirement.ts';

/**
 * Looks at every export of the host; what cannot be put right is logged and left as it is.
 * @param late exports that have not answered yet, and when they have: nothing waits for those
 */
export async function putRight(host: Host, late: ReadonlyMap<string, Promise<void>>): Promise<void> {
  for (const name of await host.exports.names()) {
    const found = late.get(name);
    if (found === undefined) await tryToPutRight(host, name);
    else void found.then(() => tryToPutRight(host, name));
  }
}

async function tryToPutRight(host: Host, name: string): Promise<void> {
  try {
    await putExportRight(host, name);
  } catch (error) {
    log.error(`what is left of export ${name} could not be put right: ${(error as Error).message}`, {
      export: name,
    });
  }
}

async function putExportRight(host: Host, name: string): Promise<void> {
  const record = await host.exports.record(name);
  if (record !== undefined && record.name !== name) await finishRename(host, name, record);
  if (name !== diskName(name) && (await putBack(host, name))) await failArrival(host, diskName(name));
  if (record?.state === 'retired') await retire(host, name);
  if (record?.state === 'standby' && host.moves.ofExport(name) === undefined) await discard(host, name);
}

/** The earlier daemon was killed while the disk arrived, and an older generation has its name again. */
async function failArrival(host: Host, name: string): Promise<void> {
  const move = host.moves.ofExport(name);
  if (move?.state !== 'preparing') return;
  for (const other of Object.keys(move.disks)) {
    const state = (await host.exports.record(other))?.state;
    if (state === undefined || state === 'standby') await discard(host, other);
  }
  host.moves.fail(move, `the daemon ended while disk ${name} was being set up`);
}
