/**
 * The takeover's steps, each on disk before the next: the origin is fenced (one that is no export of ours
 * syncs what was written to it), the present map is there and empty, the record says `relocating`. Only after
 * that is a block kept or a write acknowledged.
 */
import { stat } from 'node:fs/promises';
import { log } from '../../log/log.ts';
import { Command } from '../../nbd/constants.ts';
import type { Image } from '../../store/image/image.ts';
import { type MapIdentity, PresentMap } from '../../store/maps/present-map.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import type { RecordKeeper } from '../../store/records/record-keeper.ts';
import { blockDeviceIdentity } from '../../system/block-device.ts';
import type { OriginLink } from '../origin/link.ts';
import { command, completed } from './commands.ts';

export interface TakeOverOptions {
  link: OriginLink;
  keeper: RecordKeeper;
  image: Image;
  stateDir: string;
  /** Nothing more may come of it: the export is being stopped, or the lease is void. */
  ended: () => boolean;
}

/**
 * @returns the map, in which no block is present. @throws Error, one line, when the origin refuses, what it
 * takes cannot be put on disk, or it has ended; the origin may be fenced then.
 */
export async function takeOver({
  link,
  keeper,
  image,
  stateDir,
  ended,
}: TakeOverOptions): Promise<PresentMap> {
  const { record } = keeper;
  const { uri, generation } = record.origin!;
  if (link.lends) await command(link, uri, Command.XNBD_TAKEOVER, 'take over');
  else await completed((done) => link.flush(done));
  link.mustBeFenced = true;
  if (ended()) throw new Error('the export is being stopped');
  const map = await PresentMap.create(stateDir, await mapIdentity(record, image), image);
  await keeper.update({
    generation: generation + 1,
    takenOverAt: new Date().toISOString(),
    state: 'relocating',
  });
  log.info(`relocating, generation ${record.generation}`, { id: 'relocating' });
  return map;
}

/**
 * After a restart: the map as an earlier process left it. @throws Error, one line, when it is another disk's,
 * image's or origin's.
 */
export async function openMap(
  record: Readonly<ExportRecord>,
  image: Image,
  stateDir: string,
): Promise<PresentMap> {
  const map = await PresentMap.open(stateDir, await mapIdentity(record, image), image);
  log.info(`relocating again, ${map.presentBytes} of ${map.sizeBytes} bytes present`, { id: 'relocating' });
  return map;
}

/** Whose map it is, as the record of a disk that has an origin tells. */
async function mapIdentity(record: Readonly<ExportRecord>, image: Image): Promise<MapIdentity> {
  const { uuid, sizeBytes, origin } = record;
  const inode = image.isBlockDevice ? 0 : (await stat(image.path)).ino;
  return {
    uuid,
    sizeBytes,
    image: image.isBlockDevice ? await blockDeviceIdentity(image.path) : image.path,
    inode,
    origin: origin!.uuid === null ? origin!.uri : `${origin!.uuid} generation ${origin!.generation}`,
  };
}
