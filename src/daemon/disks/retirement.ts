/**
 * What becomes of a disk on the host that it has left for good: every block is at the next host, and no
 * client is served from here. Whoever retired it from afar may be mistaken, or lie: while a domain here uses
 * the disk, or a local client is connected, it stays; what then follows is done when that ends.
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
    const user = userOf(host, name);
    if (user !== undefined) {
      log.warning(`disk ${name} has moved away completely; it stays for now: ${user}`, { export: name });
      return;
    }
    const ran = host.exports.status(name) !== undefined;
    await host.exports.stop(name);
    if (host.config.relocation.retired === 'delete') {
      await deleteRetired(host, record);
    } else if (ran) {
      log.info(`disk ${name} has moved away completely; its old image ${record.image} is kept`, {
        id: 'disk-left',
        export: name,
      });
    }
  });
}

/** What uses a disk here, in words; undefined: nothing does. */
function userOf({ domains, exports }: Pick<Host, 'domains' | 'exports'>, name: string): string | undefined {
  const domain = domains.using(name);
  if (domain !== undefined) return `${domain.name} uses it here`;
  const clients = exports.status(name)?.clients ?? 0;
  return clients === 0
    ? undefined
    : `${clients === 1 ? '1 client is' : `${clients} clients are`} connected here`;
}

/** Deletes what is left of it, with a word in the log. */
export async function deleteRetired(host: Host, record: ExportRecord): Promise<void> {
  const image = await deleteLeftovers(host.config.paths, record.name, record);
  log.info(`disk ${record.name} has moved away completely; ${image}`, {
    id: 'disk-left',
    export: record.name,
  });
}
