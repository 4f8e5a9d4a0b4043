/**
 * Files of bits, one for each block of an image: a page of JSON that says whose map it is (the disk, the
 * image, the origin), then the bits. Another disk's map is refused.
 *
 * A map of a disk of terabytes is hundreds of megabytes, nearly all of them zeros at first. Its space is
 * reserved, so that a full disk does not hinder a mark later, but zeros are neither written nor read:
 * fallocate(2) takes no time, and what was never written is a hole to SEEK_DATA. (In memory it is the same:
 * the kernel gives a bitmap its pages when they are first written.)
 *
 * Version 1 named a block device by its path, and its files that count within a boot did not name the storage
 * that they count on.
 */
import { writeSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import {
  errnoName,
  FallocateMode,
  fallocate,
  lseek,
  readsAtRandom,
  Seek,
  SystemErrno,
} from '../../system/syscalls.ts';
import { type Bitmap, PAGE } from './bitmap.ts';
import type { PageCache } from './page-cache.ts';

/** Bytes before the bits. */
export const HEADER_LENGTH = 4096;
const PIECE = 1024 * 1024;
const VERSION = 2;

export type MapKind = 'present map' | 'written map' | 'map of lost writes';

/** Whose map it is. All of it must match for a map to be used. */
export interface MapIdentity {
  uuid: string;
  sizeBytes: number;
  /** Absolute path of the image, and its inode; of a block device what the device is, and 0. */
  image: string;
  inode: number;
  /** The origin: its uuid and generation, or the URI of a plain NBD server. */
  origin: string;
}

/**
 * @param cache whose page cache the file counts on; null: it holds after anything. @param more for the reader
 * it
 */
export function mapHeader(
  kind: MapKind,
  identity: MapIdentity,
  cache: PageCache | null,
  more: Record<string, unknown> = {},
): Buffer {
  const page = Buffer.alloc(HEADER_LENGTH);
  const text = `${JSON.stringify({ format: `xnbd ${kind} ${VERSION}`, cache, ...identity, ...more })}\n`;
  if (Buffer.byteLength(text) > HEADER_LENGTH)
    throw new Error(`the header of a map is too long: ${text.slice(0, 200)}...`);
  page.write(text);
  return page;
}

/** Makes a file, or replaces one: whoever dies meanwhile leaves the old one, whose marks count. */
export async function createMapFile(path: string, head: Buffer, bits: Bitmap): Promise<FileHandle> {
  const aside = `${path}.new`;
  await rm(aside, { force: true });
  const file = await open(aside, 'wx+', 0o600);
  try {
    await file.truncate(HEADER_LENGTH + bits.bytes.length);
    await reserve(file, HEADER_LENGTH + bits.bytes.length);
    await writeAll(file, head, 0);
    for (const page of bits.pages()) await writePage(file, bits, page);
    await file.sync();
    await rename(aside, path);
    return file;
  } catch (error) {
    await file.close();
    await rm(aside, { force: true });
    throw error;
  }
}

/** Gives all of a file its space. Where the file system cannot do that, zeros are written, piece by piece. */
async function reserve(file: FileHandle, length: number): Promise<void> {
  const errno = await new Promise<number>((resolve) =>
    fallocate(file.fd, FallocateMode.KEEP_SIZE, 0, length, resolve),
  );
  if (errno === 0) return;
  if (errno !== SystemErrno.EOPNOTSUPP && errno !== SystemErrno.ENOSYS)
    throw new Error(`no room for ${length} bytes of a map: ${errnoName(errno)}`);
  const zeros = Buffer.alloc(Math.min(PIECE, length));
  for (let at = 0; at < length; at += PIECE)
    await writeAll(file, zeros.subarray(0, Math.min(PIECE, length - at)), at);
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, position + at);
    at += bytesWritten;
  }
}

/** Writes one page of bits as it is now. */
export function writePage(file: FileHandle, bits: Bitmap, page: number): Promise<void> {
  const bytes = Buffer.from(bits.bytes.subarray(page * PAGE, (page + 1) * PAGE));
  return writeAll(file, bytes, HEADER_LENGTH + page * PAGE);
}

/**
 * Writes the bits of blocks [first, first + count), and their neighbours in the same bytes; they are in the
 * page cache when it returns. @throws
 */
export function writeBits(file: FileHandle, bits: Bitmap, first: number, count: number): void {
  const to = (first + count - 1) >>> 3;
  for (let at = first >>> 3; at <= to; )
    at += writeSync(file.fd, bits.bytes, at, to + 1 - at, HEADER_LENGTH + at);
}

/** The pages of bits that hold those of blocks [first, first + count), added to a set. */
export function addPages(pages: Set<number>, first: number, count: number): void {
  const to = Math.floor((first + count - 1) / 8 / PAGE);
  for (let page = Math.floor(first / 8 / PAGE); page <= to; page++) pages.add(page);
}

/** One that was opened; its bits are still on disk. */
export interface StoredMap {
  path: string;
  /** As the header has it, with what else is there. */
  fields: Record<string, unknown>;
  version: number;
  file: FileHandle;
}

/** The caller closes `file`. @throws Error when it is not there, or is no map of this kind. */
export async function openMapFile(path: string, kind: MapKind): Promise<StoredMap> {
  const file = await open(path, 'r+');
  try {
    const head = Buffer.alloc(HEADER_LENGTH);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    const fields = fieldsOf(head.subarray(0, bytesRead));
    const version = versionOf(fields['format'], kind);
    if (version === null) throw new Error(`${path} is not a ${kind}`);
    if (version > VERSION)
      throw new Error(
        `${path} is a ${kind} of version ${version}, this release knows ${VERSION}: use the newer one`,
      );
    return { path, fields, version, file };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function fieldsOf(head: Buffer): Record<string, unknown> {
  try {
    const fields: unknown = JSON.parse(head.toString('utf8', 0, Math.max(0, head.indexOf('\n'))));
    return typeof fields === 'object' && fields !== null ? (fields as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function versionOf(format: unknown, kind: MapKind): number | null {
  const found = typeof format === 'string' ? /^xnbd (.*) (\d{1,6})$/.exec(format) : null;
  return found?.[1] === kind ? Number(found[2]) : null;
}

/**
 * Adds the bits of a file to a bitmap. @param gained told of each page that brings bits which the bitmap
 * lacked
 */
export async function loadBits(
  { file }: StoredMap,
  into: Bitmap,
  gained: (page: number) => void = () => undefined,
): Promise<void> {
  const piece = Buffer.alloc(PIECE);
  // What is read ahead of a hole is data to SEEK_DATA.
  readsAtRandom(file.fd);
  const end = HEADER_LENGTH + into.bytes.length;
  for (let at = HEADER_LENGTH; at < end; ) {
    const data = lseek(file.fd, at, Seek.DATA);
    if (data === -SystemErrno.ENXIO) return;
    // A file system that knows no holes says so, and all of it is read.
    if (data > at) at = data - ((data - HEADER_LENGTH) % PAGE);
    const hole = lseek(file.fd, at, Seek.HOLE);
    const until = hole > at ? Math.min(Math.ceil(hole / PAGE) * PAGE, end) : end;
    const { bytesRead } = await file.read(piece, 0, Math.min(PIECE, until - at), at);
    if (bytesRead === 0) return;
    for (let from = 0; from < bytesRead; from += PAGE) {
      const position = at - HEADER_LENGTH + from;
      if (into.load(piece.subarray(from, Math.min(from + PAGE, bytesRead)), position) > 0)
        gained(position / PAGE);
    }
    at += bytesRead;
  }
}

/**
 * @param path of the image, by which version 1 knew a block device
 * @throws Error, one line, when a map belongs to another disk, image or origin.
 */
export function checkIdentity(stored: StoredMap, identity: MapIdentity, path: string): void {
  const expected = stored.version === 1 ? { ...identity, image: path } : identity;
  for (const [key, value] of Object.entries(expected)) {
    if (stored.fields[key] !== value) {
      throw new Error(
        `${stored.path} is the map of another disk: its ${key} is ${JSON.stringify(stored.fields[key])}, here it is ${JSON.stringify(value)}; ` +
          'use the state directory that belongs to this image, or begin anew with an empty one',
      );
    }
  }
}
