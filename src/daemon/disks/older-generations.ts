/**
 * A disk that comes back finds its older generation here: an old copy, or, when the disk comes back before it
 * was complete elsewhere, the origin that the other host still reads. The older generation is then renamed
 * `NAME@GENERATION` and served beside the new one to the holder of its lease (gateway/local-exports.ts finds
 * it by the generation that the holder asks for). If the disk does not arrive after all, the older generation
 * gets its name back.
 */
import { existsSync } from 'node:fs';
import { readdir, rename } from 'node:fs/promises';
import { log } from '../../log/log.ts';
import { removeDurably, syncDirectory } from '../../store/directory.ts';
import { diskName, type ExportRecord, olderName, writeRecord } from '../../store/records/record.ts';
import type { Host } from '../host.ts';
import { deleteRetired } from './retirement.ts';

/**
 * Makes the name free: what an earlier stay left is deleted (if it is retired, and configured so) or set
 * aside, and served on if it is fenced.
 */
export function setAside(host: Host, record: ExportRecord): Promise<void> {
  return host.queue.run(`disk ${record.name}`, async () => {
    if ((await host.exports.record(record.name)) === undefined) return;
    const clients = host.exports.status(record.name)?.clients ?? 0;
    if (clients > 0)
      throw new Error(
        `${clients} local clients are connected to the old copy of disk ${record.name}: end them first`,
      );
    await host.exports.stop(record.name);
    // One that was reclaimed may hold what its guest wrote last: that is the administrator's to delete.
    if (record.state === 'retired' && host.config.relocation.retired === 'delete') {
      await deleteRetired(host, record);
      return;
    }
    const older = olderName(record.name, record.generation);
    const asideDir = await renameExport(host, record, older);
    log.info(
      `the old copy of disk ${record.name} (generation ${record.generation}, ${record.state}) is set aside in ${asideDir}`,
      { export: record.name },
    );
    if (record.state === 'fenced') await host.exports.ensure(older);
  });
}

/**
 * Gives its name back to the last generation that was set aside, if nothing else has that now. @returns it
 * has it again
 */
export function putBack(host: Host, name: string): Promise<boolean> {
  const disk = diskName(name);
  return host.queue.run(`disk ${disk}`, async () => {
    if ((await host.exports.record(disk)) !== undefined) return false;
    await host.exports.endStrays(disk);
    // It may have got that far.
    if ((await host.exports.record(disk)) !== undefined) return false;
    const generations = (await readdir(host.config.paths.exports))
      .filter((each) => each !== disk && diskName(each) === disk)
      .map((each) => Number(each.slice(disk.length + 1)));
    if (generations.length === 0) return false;
    const older = olderName(disk, Math.max(...generations));
    const record = await host.exports.record(older);
    if (record === undefined) return false;
    await host.exports.stop(older);
    await renameExport(host, record, disk);
    log.info(`disk ${disk} is what was set aside as ${older} again (${record.state})`, { export: disk });
    if (record.state === 'fenced') await host.exports.ensure(disk);
    return true;
  });
}

/**
 * An export that does not run gets another name, and so does its image, if that lies where the name puts it.
 * The record is written first, so that a daemon which finds it can finish the rename (`finishRename`).
 * @returns its state directory
 */
async function renameExport(host: Host, record: ExportRecord, name: string): Promise<string> {
  const [from, to] = [host.exports.paths(record.name), host.exports.paths(name)];
  await removeDurably(to.stateDir);
  const renamed = { ...record, name, image: record.image === from.image ? to.image : record.image };
  await writeRecord(from.stateDir, renamed);
  return await finishRename(host, record.name, renamed);
}

/**
 * The second half, also for a daemon that finds a record under another name than its own. @param was the name
 * of the directory
 */
export async function finishRename(host: Host, was: string, record: ExportRecord): Promise<string> {
  const [from, to] = [host.exports.paths(was), host.exports.paths(record.name)];
  // A daemon that died in between may have moved the image already.
  if (record.image === to.image && existsSync(from.image) && !existsSync(to.image)) {
    await rename(from.image, to.image);
    await syncDirectory(host.config.paths.images);
  }
  await rename(from.stateDir, to.stateDir);
  await syncDirectory(host.config.paths.exports);
  return to.stateDir;
}
