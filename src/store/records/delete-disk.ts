/** Deleting what is left of a disk on a host that it has left for good. */
import { lstat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { exportPaths, type HostPaths } from '../../config/export-paths.ts';
import { removeDurably } from '../directory.ts';
import { rememberDeparted } from './departed.ts';
import type { ExportRecord } from './record.ts';
import { removeStateDirectory } from './state-lock.ts';

/**
 * Deletes record and image; an image that is no file among our own, such as a block device, is the
 * administrator's to delete.
 * @param name of the state directory. @returns what became of the image, for a message.
 */
export async function deleteLeftovers(paths: HostPaths, name: string, record: ExportRecord): Promise<string> {
  const found = await lstat(record.image).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
  const ours = dirname(record.image) === paths.images && found?.isFile() !== false;
  await rememberDeparted(paths.exports, record);
  // The record last: it tells whose the image is. One that is gone already may not be so after a loss of
  // power.
  if (ours) await removeDurably(record.image);
  await removeStateDirectory(exportPaths(paths, name).stateDir);
  return ours ? `its old image ${record.image} is deleted` : `${record.image} is left as it is`;
}
