/**
 * Files of bits, one for each block of an image: a page of JSON that says whose map it is (the disk, the
 * image file, the origin), then the bits. Another disk's map is refused.
 */
import { type FileHandle, open, readFile, rename, rm } from 'node:fs/promises';

/** Bytes before the bits. */
export const HEADER_LENGTH = 4096;

/** Whose map it is. All of it must match for a map to be used. */
export interface MapIdentity {
  uuid: string;
  sizeBytes: number;
  /** Absolute path of the image, and its inode where it is a file (0 for a device). */
  image: string;
  inode: number;
  /** The origin: its uuid and generation, or the URI of a plain NBD server. */
  origin: string;
}

/** @param boot the boot within which the file counts; null: it holds after anything. */
export function mapHeader(format: string, identity: MapIdentity, boot: string | null): Buffer {
  const page = Buffer.alloc(HEADER_LENGTH);
  const text = `${JSON.stringify({ format, boot, ...identity })}\n`;
  if (Buffer.byteLength(text) > HEADER_LENGTH)
    throw new Error(`the header of a map is too long: ${text.slice(0, 200)}...`);
  page.write(text);
  return page;
}

/** Makes a file, or replaces one: whoever dies meanwhile leaves the old one, whose marks count. */
export async function createMapFile(path: string, head: Buffer, bits: Buffer): Promise<FileHandle> {
  const aside = `${path}.new`;
  await rm(aside, { force: true });
  const file = await open(aside, 'wx+', 0o600);
  try {
    // Written out, not sparse: a full disk must not hinder a mark later.
    await file.writeFile(Buffer.concat([head, bits]));
    await file.sync();
    await rename(aside, path);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** @throws Error when it is not there, or is no map of this format. */
export async function readMapFile(
  path: string,
  format: string,
): Promise<{ identity: Record<string, unknown>; boot: unknown; bits: Buffer }> {
  const bytes = await readFile(path);
  const end = bytes.indexOf('\n');
  let fields: unknown;
  try {
    fields = JSON.parse(bytes.toString('utf8', 0, end === -1 || end > HEADER_LENGTH ? 0 : end));
  } catch {
    fields = null;
  }
  if (typeof fields !== 'object' || fields === null || !('format' in fields) || fields.format !== format) {
    throw new Error(`${path} is not a ${format.replace(/ \d+$/, '').replace(/^xnbd /, '')}`);
  }
  const identity = fields as Record<string, unknown>;
  return { identity, boot: identity['boot'], bits: bytes.subarray(HEADER_LENGTH) };
}

/** @throws Error, one line, when a map belongs to another disk, image or origin. */
export function checkIdentity(path: string, expected: MapIdentity, found: Record<string, unknown>): void {
  for (const [key, value] of Object.entries(expected)) {
    if (found[key] !== value) {
      throw new Error(
        `${path} is the map of another disk: its ${key} is ${JSON.stringify(found[key])}, here it is ${JSON.stringify(value)}; ` +
          'use the state directory that belongs to this image, or begin anew with an empty one',
      );
    }
  }
}
