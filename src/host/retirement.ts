/** What becomes of a disk on the host that it has left for good: every block is at the next host, and nobody is served from here. */
import { existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { log } from '../log/log.ts';
import { removeDurably, syncDirectory } from '../store/directory.ts';
import { type ExportRecord, writeRecord } from '../store/record.ts';
import type { Host } from './host.ts';
import { deleteLeftovers } from './leftovers.ts';

/** Ends the export's process; keeps or deletes image and record, as configured. */
export function retire(host: Host, name: string): Promise<void> {
  return host.turns.run(`disk ${name}`, async () => {
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

/** Makes the name free for a disk that comes back: what an earlier stay left is deleted or set aside as `NAME@GENERATION`. */
export function setRetiredAside(host: Host, record: ExportRecord): Promise<void> {
  return host.turns.run(`disk ${record.name}`, () => setAside(host, record));
}

async function setAside(host: Host, record: ExportRecord): Promise<void> {
  if ((await host.exports.record(record.name)) === undefined) return;
  await host.exports.stop(record.name);
  // One that was reclaimed may hold what its guest wrote last: that is the administrator's to delete.
  if (record.state === 'retired' && host.config.relocation.retired === 'delete') {
    await deleteRetired(host, record);
    return;
  }
  const old = `${record.name}@${record.generation}`;
  const { image, stateDir } = host.exports.place(record.name);
  const asideDir = join(host.config.paths.exports, old);
  await removeDurably(asideDir);
  if (record.image === image) {
    const asideImage = join(host.config.paths.images, `${old}.img`);
    // Whoever died in between has moved the image already.
    if (existsSync(image) || !existsSync(asideImage)) await rename(image, asideImage);
    await syncDirectory(host.config.paths.images);
    await writeRecord(stateDir, { ...record, image: asideImage });
  }
  await rename(stateDir, asideDir);
  await syncDirectory(host.config.paths.exports);
  log.info(
    `the old copy of disk ${record.name} (generation ${record.generation}) is set aside in ${asideDir}`,
    {
      export: record.name,
    },
  );
}

async function deleteRetired(host: Host, record: ExportRecord): Promise<void> {
  const image = await deleteLeftovers(host.config.paths, record.name, record);
  log.info(`disk ${record.name} has moved away completely; ${image}`, { export: record.name });
}
