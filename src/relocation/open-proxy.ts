/**
 * Opens a proxy's parts, for the first time or again: record, link to the origin, image. What does not fit
 * together is refused here, before anything is changed.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { DiskSettingValues } from '../config/settings.ts';
import { formatNbdUri, parseNbdUri } from '../nbd/uri.ts';
import type { TlsParty } from '../pki/tls.ts';
import { BLOCK_SIZE } from '../store/block-ranges.ts';
import { Image } from '../store/image/image.ts';
import {
  type ExportRecord,
  newRecord,
  readRecord,
  removeRecord,
  writeRecord,
} from '../store/records/record.ts';
import { RecordKeeper } from '../store/records/record-keeper.ts';
import type { ExpectedOrigin } from './origin/identity.ts';
import { OriginLink } from './origin/link.ts';

/** What a present map can tell of: 2^32 blocks. */
const LARGEST_DISK = 2 ** 32 * BLOCK_SIZE;

export interface ProxyOptions {
  name: string;
  image: string;
  /** URI of the origin; may be left out for a proxy that is known. */
  origin: string;
  /** The origin may be a server that speaks oldstyle. */
  allowOldstyle?: boolean;
  stateDir: string;
  /** What the origin has to be when it is met for the first time. */
  expected?: ExpectedOrigin;
  /** HOST:PORT by which the origin is to call us. */
  holder?: string | undefined;
  /** A directory of the host's disks, by which those on one path share it; left out: this one is alone. */
  run?: string;
  /** Told from outside when its guest has come: until then a disk that was read keeps its origin. */
  waitForGuest?: boolean;
  /** Nothing is copied in the background before the daemon has told a share (copy/copy-caps.ts). */
  awaitShare?: boolean;
  /** Those that the export is started with. */
  settings?: Partial<DiskSettingValues>;
  /** For an nbds origin. */
  tls?: TlsParty | undefined;
}

export interface ProxyParts {
  keeper: RecordKeeper;
  image: Image;
  link: OriginLink | null;
}

/** @throws Error, one line, that names what does not fit. */
export async function openProxy(options: ProxyOptions): Promise<ProxyParts> {
  const record = await readRecord(options.stateDir);
  return record === undefined ? await openNew(options) : await openKnown(options, record);
}

async function openNew(options: ProxyOptions): Promise<ProxyParts> {
  const address = parseNbdUri(options.origin);
  const lease = randomUUID();
  const { tls, holder, expected } = options;
  const how = { address, tls, holder, lease, ...(expected && { expected }), ...oldstyle(options) };
  const link = await OriginLink.open({ ...how, known: null });
  try {
    const { uuid, generation, sizeBytes, epoch } = link.identity;
    if (sizeBytes > LARGEST_DISK) {
      throw new Error(
        `the disk at ${formatNbdUri(address)} has ${sizeBytes} bytes; a disk of more than ${LARGEST_DISK} (16 TiB) cannot be moved`,
      );
    }
    const path = resolve(options.image);
    const found = await openExisting(path, sizeBytes);
    try {
      const fresh = newRecord(options.name, path, sizeBytes);
      const record: ExportRecord = {
        ...fresh,
        uuid: uuid ?? fresh.uuid,
        generation,
        imageCreated: found === undefined,
        state: 'standby',
        complete: false,
        origin: { uri: formatNbdUri(address), uuid, generation, epoch, lease },
      };
      // The record first: an image that no record knows would be in the way for ever.
      await writeRecord(options.stateDir, record);
      const image = found ?? (await Image.create(path, sizeBytes));
      return { keeper: new RecordKeeper(options.stateDir, record), image, link };
    } catch (error) {
      await found?.close();
      await removeRecord(options.stateDir);
      throw error;
    }
  } catch (error) {
    link.close();
    throw error;
  }
}

async function openKnown(options: ProxyOptions, record: ExportRecord): Promise<ProxyParts> {
  const { stateDir, name } = options;
  if (record.name !== name)
    throw new Error(`${stateDir} belongs to the export '${record.name}', not '${name}'`);
  const path = resolve(options.image);
  // A block device may have another path today. Whether it is the same one its map tells, where there is one.
  if (record.image !== path && (record.complete || !(await isBlockDevice(path))))
    throw new Error(`${stateDir} belongs to the image ${record.image}, not ${path}`);
  // One that has yet to tell its own origin to retire may do that.
  if (record.state === 'retired' && record.origin === null) {
    throw new Error(`${name} is retired: its disk has moved on; begin anew with an empty state directory`);
  }
  if (record.state === 'reclaimed') {
    throw new Error(`${name} is void: ${record.reclaimed}`);
  }
  const { origin } = record;
  const uri = formatNbdUri(parseNbdUri(options.origin));
  if (origin?.uuid === null && origin.uri !== uri) {
    throw new Error(
      `${name} fetches from ${origin.uri}, not from ${uri}: another origin would mix two disks`,
    );
  }
  const image = await openKnownImage(path, record);
  if (origin === null) return { keeper: new RecordKeeper(stateDir, record), image, link: null };
  const moved: ExportRecord = { ...record, image: path, origin: { ...origin, uri } };
  if (origin.uri !== uri) await writeRecord(stateDir, moved);
  const link = OriginLink.resume({
    address: parseNbdUri(uri),
    tls: options.tls,
    holder: options.holder,
    lease: origin.lease,
    ...oldstyle(options),
    known: {
      uuid: origin.uuid,
      generation: origin.generation,
      sizeBytes: record.sizeBytes,
      epoch: origin.epoch,
    },
  });
  link.mustBeFenced = record.takenOverAt !== null;
  return { keeper: new RecordKeeper(stateDir, moved), image, link };
}

async function isBlockDevice(path: string): Promise<boolean> {
  return await stat(path).then(
    (found) => found.isBlockDevice(),
    () => false,
  );
}

function oldstyle({ allowOldstyle = false }: ProxyOptions): { allowOldstyle: boolean } {
  return { allowOldstyle };
}

/** @throws Error when the image of a proxy is not what its record says. */
async function openKnownImage(path: string, record: ExportRecord): Promise<Image> {
  const { name, sizeBytes, state, imageCreated } = record;
  if (state === 'standby' && imageCreated) {
    // Nothing in it counts, and an earlier process may not have made it to its end.
    await rm(path, { force: true });
    return await Image.create(path, sizeBytes);
  }
  const image = await Image.open(path, {});
  if (image.size === sizeBytes) return image;
  await image.close();
  throw new Error(
    `image ${path} has ${image.size} bytes, its record says ${sizeBytes}: it is not the image of '${name}'`,
  );
}

/** A file that does not exist is for us to make; one that exists must be as large as the origin. */
async function openExisting(path: string, sizeBytes: number): Promise<Image | undefined> {
  if (!existsSync(path)) return undefined;
  const image = await Image.open(path, {});
  if (image.size === sizeBytes) return image;
  await image.close();
  throw new Error(
    `image ${path} has ${image.size} bytes and the origin ${sizeBytes}: they must be equal; name a new file to have it made`,
  );
}
