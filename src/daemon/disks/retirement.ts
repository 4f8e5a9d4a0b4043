/**
 * What becomes of a disk on the host that it has left for good: every block is at the next host, and no
 * client is served from here.
 */
import { log } from '../../log/log.ts';
import { deleteLeftovers } from '../../store/records/delete-disk.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import type { Host } from '../host.ts';

/** Ends the export's process; keeps or deletes image and record, as configured. */
export function retire(host: Host, name: string): Promise<void> {
  return host.queue.run(`disk ${name}`, async () => {
    const record = await host.exports.record(name);
    // One that still has an origin has yet to tell it.
    if (record?.state !== 'retired' || record.origin !== null) return;
    const ran = host.exports.status(name) !== undefined;
    await host.exports.stop(name);
    if (host.config.relocation.retired === 'delete') {
      await deleteRetired(host, record);
    } else if (ran) {
      log.info(`disk ${name} has moved away completely; its old image ${record.image} is kept`, {
        export: name,
      });
    }
  });
}

/** Deletes what is left of it, with a word in the log. */
export async function deleteRetired(host: Host, record: ExportRecord): Promise<void> {
  const image = await deleteLeftovers(host.config.paths, record.name, record);
  log.info(`disk ${record.name} has moved away completely; ${image}`, { export: record.name });
}
