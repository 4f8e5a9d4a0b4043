/**
 * Opens a proxy's parts, for the first time or again: record, link to the origin, image. What does not fit together is refused here, before
 * anything is changed.
 */
import { randomUUID } from 'node:crypto';
import { access, unlink } from 'node:fs/promises';
import { resolve } from 'node:path';
import { RecordKeeper } from '../export/record-keeper.ts';
import { formatNbdUri, parseNbdUri } from '../nbd/uri.ts';
import type { TlsParty } from '../pki/tls.ts';
import { Image } from '../store/image.ts';
import { BLOCK_SIZE } from '../store/present-map.ts';
import { type ExportRecord, newRecord, readRecord, writeRecord } from '../store/record.ts';
import { OriginLink } from './origin-link.ts';

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
  /** The disk is compared with its origin before that is let go. */
  verify?: boolean;
  /** HOST:PORT by which the origin is to call us. */
  holder?: string | undefined;
  /** What is here is told from outside when its guest has come (relocation.ts). */
  awaitsGuest?: boolean;
  /** How long a client's request may wait for the origin, seconds; null, the default: for ever. */
  originTimeout?: number | null;
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
  const { tls, holder } = options;
  const link = await OriginLink.open({ address, tls, holder, lease, known: null, ...oldstyle(options) });
  try {
    const { uuid, generation, sizeBytes, epoch } = link.identity;
    if (sizeBytes > LARGEST_DISK) {
      throw new Error(
        `the disk at ${formatNbdUri(address)} has ${sizeBytes} bytes; a disk of more than ${LARGEST_DISK} (16 TiB) cannot be moved`,
      );
    }
    const { image, created } = await openOrCreateImage(resolve(options.image), sizeBytes);
    try {
      const fresh = newRecord(options.name, image.path, sizeBytes);
      const record: ExportRecord = {
        ...fresh,
        uuid: uuid ?? fresh.uuid,
        generation,
        imageCreated: created,
        state: 'standby',
        complete: false,
        origin: { uri: formatNbdUri(address), uuid, generation, epoch, lease },
      };
      await writeRecord(options.stateDir, record);
      return { keeper: new RecordKeeper(options.stateDir, record), image, link };
    } catch (error) {
      await image.close();
      if (created) await unlink(image.path);
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
  if (record.image !== path) throw new Error(`${stateDir} belongs to the image ${record.image}, not ${path}`);
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
  const image = await Image.open(path, {});
  if (image.size !== record.sizeBytes) {
    await image.close();
    throw new Error(
      `image ${path} has ${image.size} bytes, its record says ${record.sizeBytes}: it is not the image of '${name}'`,
    );
  }
  if (origin === null) return { keeper: new RecordKeeper(stateDir, record), image, link: null };
  const moved: ExportRecord = { ...record, origin: { ...origin, uri } };
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
  return { keeper: new RecordKeeper(stateDir, moved), image, link };
}

function oldstyle({ allowOldstyle = false }: ProxyOptions): { allowOldstyle: boolean } {
  return { allowOldstyle };
}

/** A file that does not exist is made sparse, as large as the origin; one that exists must have that size. */
async function openOrCreateImage(
  path: string,
  sizeBytes: number,
): Promise<{ image: Image; created: boolean }> {
  const exists = await access(path).then(
    () => true,
    () => false,
  );
  if (!exists) return { image: await Image.create(path, sizeBytes), created: true };
  const image = await Image.open(path, {});
  if (image.size === sizeBytes) return { image, created: false };
  await image.close();
  throw new Error(
    `image ${path} has ${image.size} bytes and the origin ${sizeBytes}: they must be equal; name a new file to have it made`,
  );
}
