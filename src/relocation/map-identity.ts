/** Whose present map it is, as a proxy's record tells. */
import { stat } from 'node:fs/promises';
import type { Image } from '../store/image/image.ts';
import type { MapIdentity } from '../store/maps/present-map.ts';
import type { ExportRecord } from '../store/records/record.ts';

/** @param record of a disk that has an origin. @throws Error when the image cannot be looked at. */
export async function mapIdentity(record: ExportRecord, image: Image): Promise<MapIdentity> {
  const { origin } = record;
  const status = await stat(image.path);
  return {
    uuid: record.uuid,
    sizeBytes: record.sizeBytes,
    image: image.path,
    inode: status.isFile() ? status.ino : 0,
    origin: origin!.uuid === null ? origin!.uri : `${origin!.uuid} generation ${origin!.generation}`,
  };
}
