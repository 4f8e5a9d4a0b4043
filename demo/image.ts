/**
 * The disk of the demo's guest: an ext4 file system with real files, and one large file in it where the
 * guest's own data is. The guest writes into that file alone, at the blocks where it really lies, so the file
 * system stays whole and can be checked in the end.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, open, opendir, rm, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const MIB = 1024 * 1024;
/** Thousands of tiny files take longer to copy than they teach. */
const SMALLEST = 16 * 1024;
/** mkfs and its kin are not on everybody's path. */
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

/** Bytes of the disk, from `offset` on. */
export interface Range {
  offset: number;
  length: number;
}

export interface GuestImage {
  path: string;
  size: number;
  /** Where the guest's own data is. */
  own: Range[];
  files: number;
  /** false: no mkfs.ext4 here; data and holes without a file system. */
  ext4: boolean;
}

/**
 * Makes the image in `dir`, `size` bytes (whole MiB): about 45 % files of `from`, 25 % the guest's own, the
 * rest a hole.
 */
export async function makeImage(dir: string, size: number, from: string): Promise<GuestImage> {
  const path = join(dir, 'guest.img');
  const ownSize = Math.floor(size / MIB / 4) * MIB;
  if (!(await hasExt4())) return await withoutFileSystem(path, size, ownSize);
  const staging = join(dir, 'staging');
  await mkdir(staging);
  const files = await copySome(from, join(staging, 'files'), size * 0.45);
  await writeRandom(join(staging, 'guest.data'), ownSize);
  await run('mkfs.ext4', ['-q', '-F', '-b', '4096', '-m', '0', '-d', staging, path, `${size / 1024}k`], {
    env,
  });
  await rm(staging, { recursive: true });
  return { path, size, own: await rangesOf(path, '/guest.data'), files, ext4: true };
}

/**
 * Checks the file system of an image that nobody serves. @returns null when it is clean, else what e2fsck
 * says.
 */
export async function checkFileSystem(path: string): Promise<string | null> {
  try {
    await run('e2fsck', ['-f', '-n', path], { env });
    return null;
  } catch (error) {
    return (error as Error & { stdout?: string }).stdout ?? (error as Error).message;
  }
}

async function hasExt4(): Promise<boolean> {
  try {
    await run('mkfs.ext4', ['-V'], { env });
    await run('debugfs', ['-V'], { env });
    return true;
  } catch {
    return false;
  }
}

async function withoutFileSystem(path: string, size: number, ownSize: number): Promise<GuestImage> {
  await writeRandom(path, Math.floor((size * 0.7) / MIB) * MIB);
  const file = await open(path, 'r+');
  await file.truncate(size);
  await file.close();
  return { path, size, own: [{ offset: 0, length: ownSize }], files: 0, ext4: false };
}

/** Copies files until there are `bytes` of them. @returns how many. */
async function copySome(from: string, to: string, bytes: number): Promise<number> {
  let left = bytes;
  let count = 0;
  await mkdir(to);
  for await (const entry of await opendir(from, { recursive: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const { size } = await stat(path);
    if (size < SMALLEST || size > left / 4) continue;
    await cp(path, join(to, relative(from, path)));
    left -= Math.ceil(size / 4096) * 4096;
    count += 1;
    if (left < bytes / 50) break;
  }
  return count;
}

/** Bytes that no compression and no recognition of zeros can make less of. */
async function writeRandom(path: string, size: number): Promise<void> {
  const file = await open(path, 'w');
  const bytes = Buffer.alloc(MIB);
  const words = new Uint32Array(bytes.buffer);
  for (let offset = 0; offset < size; offset += MIB) {
    let state = (offset + 1) | 1;
    for (let index = 0; index < words.length; index++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      words[index] = state;
    }
    await file.write(bytes, 0, Math.min(MIB, size - offset), offset);
  }
  await file.close();
}

/** Where a file lies on the disk of an image. */
async function rangesOf(image: string, file: string): Promise<Range[]> {
  const { stdout } = await run('debugfs', ['-R', `blocks ${file}`, image], { env, maxBuffer: 64 * MIB });
  const ranges: Range[] = [];
  for (const text of stdout.trim().split(/\s+/)) {
    const offset = Number(text) * 4096;
    const last = ranges.at(-1);
    if (last !== undefined && last.offset + last.length === offset) last.length += 4096;
    else ranges.push({ offset, length: 4096 });
  }
  // Single blocks in between are the extent tree's own, not the file's.
  const long = ranges.filter(({ length }) => length >= MIB);
  if (long.length === 0)
    throw new Error(`debugfs does not tell where ${file} lies in ${image}: ${stdout.slice(0, 200)}`);
  return long;
}
