/**
 * The record of an export, `export.json` in its state directory: who it is and where it stands in its life.
 * It is what an export finds when it starts again, and what the daemon reads to know which exports a host
 * has.
 *
 * A record is replaced as a whole (write aside, sync, rename, sync the directory), so that after a loss of
 * power there is either the old one or the new one. A change of state is made here first, and acted on
 * only when this has returned.
 */
import { randomUUID } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { makeDirectory, replaceFile } from '../directory.ts';

const Uuid = v.pipe(v.string(), v.uuid());
const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

const VERSION = 1;

/**
 * Keys that are not known here are another release's: they stay, also when the record is written again. A
 * release that must not be ignored writes another version.
 */
const entries = {
  version: v.literal(VERSION),
  name: v.string(),
  /** The disk's identity, the same on every host that it moves to. */
  uuid: Uuid,
  /** Grows by one with each takeover. */
  generation: Count,
  /** Absolute path of the image. */
  image: v.string(),
  /** The image was made by a proxy (and goes with it when the move is given up). */
  imageCreated: v.boolean(),
  sizeBytes: Count,
  state: v.picklist(['serving', 'fenced', 'retired', 'standby', 'relocating', 'reclaimed']),
  /** Every block is local. An export can be fenced and not complete: C from B from A. */
  complete: v.boolean(),
  /** Where a proxy fetches from; kept after completion until the origin has been told to retire. */
  origin: v.nullable(
    v.looseObject({
      uri: v.string(),
      /** Identity that the origin gave at the first attach; null for a plain NBD server. */
      uuid: v.nullable(Uuid),
      generation: Count,
      /** The origin's epoch (below) then, where it told. */
      epoch: v.optional(Count),
      /** The lease, ours, the same after every reconnect. */
      lease: Uuid,
    }),
  ),
  /** What an administrator chose for this disk, as it is written, by the names of src/config/settings.ts. */
  settings: v.optional(v.record(v.string(), v.string()), {}),
  /** Origin side, while fenced: the lease that may read. */
  lease: v.nullable(Uuid),
  /** What the host that made the lease is known by: no other host speaks for it. null: not known. */
  leaseIdentity: v.optional(v.nullable(v.string()), null),
  /**
   * Origin side, from the fence on: who took the disk over (HOST:PORT; empty: it did not tell), and when (ISO
   * 8601).
   */
  movedTo: v.optional(v.nullable(v.looseObject({ host: v.string(), at: v.string() })), null),
  /**
   * Grows with each start of a guest on the disk here: an arrival that belongs to an earlier one is void.
   * From 1 on: 0 is 'any' to an origin.
   */
  epoch: v.optional(Count, 1),
  /** Leases that an administrator has ended by hand (reclaim), the last ones: they are void for good. */
  voidLeases: v.optional(v.array(Uuid), []),
  /** In state `reclaimed`: what the origin said. */
  reclaimed: v.optional(v.nullable(v.string()), null),
  /** ISO 8601, of the takeover that made this generation; null where there was none. */
  takenOverAt: v.nullable(v.string()),
  /** A comparison with the origin found differences that were not accepted: the origin is not let go. */
  differs: v.optional(v.boolean(), false),
  onDemandBytes: Count,
  backgroundBytes: Count,
  skippedBytes: Count,
  /** Of a completed relocation; 0 before. */
  relocationSeconds: v.pipe(v.number(), v.minValue(0)),
};

const RecordSchema = v.looseObject(entries);

/** What is known here of it. */
export type ExportRecord = v.InferOutput<v.ObjectSchema<typeof entries, undefined>>;

/** What lies where a record should be is none, or cannot be read: one line, with the file and the way out. */
export class UnreadableRecord extends Error {}

const fileName = 'export.json';

/** A name must be fit for a file name, a socket name, a D-Bus path (escaped) and an NBD string. */
export function checkExportName(name: string): void {
  if (name === 'hook') throw new Error("export name 'hook' is taken: hook.sock is the daemon's own socket");
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(@[0-9]{1,16})?$/.test(name)) {
    throw new Error(
      `export name '${name.slice(0, 120)}' is not usable: 1 to 100 letters, digits, '_', '.', '+', '-', not starting with '.', '+' or '-'`,
    );
  }
}

export function isExportName(name: string): boolean {
  try {
    checkExportName(name);
    return true;
  } catch {
    return false;
  }
}

/**
 * An older generation of a disk that a host keeps beside the one that it serves: an origin to which the disk
 * comes back before it was complete elsewhere, or an old copy. It has its own record, image and sockets; to
 * NBD clients it goes by the disk's name.
 */
export function olderName(name: string, generation: number): string {
  return `${name}@${generation}`;
}

/** The name of the disk, of whichever generation. */
export function diskName(name: string): string {
  return name.replace(/@[0-9]+$/, '');
}

/** The record of a disk that has never moved. */
export function newRecord(name: string, image: string, sizeBytes: number): ExportRecord {
  checkExportName(name);
  return {
    version: 1,
    name,
    uuid: randomUUID(),
    generation: 1,
    image,
    imageCreated: false,
    sizeBytes,
    state: 'serving',
    complete: true,
    origin: null,
    settings: {},
    lease: null,
    leaseIdentity: null,
    movedTo: null,
    epoch: 1,
    voidLeases: [],
    reclaimed: null,
    takenOverAt: null,
    differs: false,
    onDemandBytes: 0,
    backgroundBytes: 0,
    skippedBytes: 0,
    relocationSeconds: 0,
  };
}

/** Seconds from the takeover until now, or until every block was here. */
export function secondsSinceTakeover({ complete, takenOverAt, relocationSeconds }: ExportRecord): number {
  if (complete || takenOverAt === null) return relocationSeconds;
  return Math.max(0, (Date.now() - Date.parse(takenOverAt)) / 1000);
}

/** Reads the record in a state directory; undefined when there is none.
 * @throws UnreadableRecord, when there is something else. */
export async function readRecord(stateDir: string): Promise<ExportRecord | undefined> {
  const path = join(stateDir, fileName);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UnreadableRecord(
      `${path} cannot be read: ${message}${code === 'EACCES' ? '; run as root' : ''}`,
    );
  }
  let version: unknown;
  try {
    const found: unknown = JSON.parse(text);
    if (typeof found === 'object' && found !== null && 'version' in found) ({ version } = found);
    return v.parse(RecordSchema, withSettings(found));
  } catch (error) {
    if (typeof version === 'number' && version !== VERSION) {
      throw new UnreadableRecord(
        `${path} is of version ${version}, and this release of xNBD reads version ${VERSION}: ` +
          'a newer one wrote it; install that, and leave the file as it is',
      );
    }
    const wayOut =
      version === VERSION
        ? 'if a newer xNBD wrote it, install that; else restore it from a backup'
        : 'restore it from a backup';
    throw new UnreadableRecord(
      `${path} is not the record of an export (${(error as Error).message}): ${wayOut}, or, if every block of the disk ` +
        `is on this host (it never moved, or has arrived completely), move the directory ${stateDir} aside to begin anew`,
    );
  }
}

/** Earlier releases had one setting, and `originTimeout` for it: seconds, or 'none'. */
function withSettings(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('originTimeout' in value)) return value;
  const { originTimeout, ...record } = value;
  return { ...record, settings: { 'origin-timeout': String(originTimeout) } };
}

/** Replaces the record, durably: when this resolves it survives loss of power. */
export async function writeRecord(stateDir: string, record: ExportRecord): Promise<void> {
  await makeDirectory(stateDir);
  await replaceFile(join(stateDir, fileName), `${JSON.stringify(record, null, 2)}\n`);
}

/** Removes the record: nothing in the state directory counts any more. */
export async function removeRecord(stateDir: string): Promise<void> {
  for (const name of [fileName, `${fileName}.new`]) await rm(join(stateDir, name), { force: true });
}
