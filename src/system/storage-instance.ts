/**
 * Names for the storage behind a file, such that one that went away and came back has another name.
 *
 * The page cache of a file lives as long as its superblock: within one, what was written is read back, and
 * after an umount and a mount only what reached the disk is. The boot id does not tell the two apart, nor
 * does the device number, which is given again. So the name is made of what the kernel makes anew with each
 * superblock or device:
 *
 * - ext4, XFS, F2FS, Btrfs: the inode of the file system's own directory in /sys/fs, which appears with the
 *   mount and goes with it. Such numbers are not given again within a boot.
 * - a block device that is an image itself, and one beneath a file system: `diskseq` (Linux 5.15), which
 *   counts every disk that appears and every medium that is changed: a loop device set up anew, an iSCSI
 *   session logged in again.
 * - any other file system (tmpfs, NFS, ...): the mount's unique id (statx, STATX_MNT_ID_UNIQUE, Linux 6.8),
 *   which is never given again.
 *
 * The mount's id comes last because a service with a mount namespace of its own has other ids after each
 * restart, for the same superblock; it is taken from the namespace of process 1 where that sees the same
 * file. A kernel that tells none of them gives no name, and who asks trusts nothing.
 */
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { uniqueMountId } from './syscalls.ts';

/** @param path of a file, a directory or a block device. @returns null when nobody can tell. */
export async function storageInstance(path: string): Promise<string | null> {
  try {
    const found = await stat(path);
    return found.isBlockDevice() ? await diskInstance(numbersOf(found.rdev)) : await fileSystemInstance(path);
  } catch {
    return null;
  }
}

/** MAJOR:MINOR, from a device number as stat(2) has it. */
export function numbersOf(device: number): string {
  const number = BigInt(device);
  const major = ((number >> 8n) & 0xfffn) | ((number >> 32n) & ~0xfffn);
  const minor = (number & 0xffn) | ((number >> 12n) & ~0xffn);
  return `${major}:${minor & 0xffffffffn}`;
}

async function diskInstance(numbers: string): Promise<string | null> {
  const directory = await realpath(join('/sys/dev/block', numbers));
  // A partition's is its disk's.
  for (const place of [directory, join(directory, '..')]) {
    const sequence = await readFile(join(place, 'diskseq'), 'utf8').catch(() => null);
    if (sequence !== null) return `disk ${numbers} ${sequence.trim()}`;
  }
  return null;
}

async function fileSystemInstance(path: string): Promise<string | null> {
  const { numbers, type, source } = await mountOf(path);
  const directory = await sysfsOf(numbers, type, source);
  if (directory !== null) {
    const { ino } = await stat(directory);
    const disk = numbers.startsWith('0:') ? '' : ` on ${await diskInstance(numbers)}`;
    return `${type} ${ino}${disk}`;
  }
  const mount = await mountId(path);
  return mount === null ? null : `mount ${mount}`;
}

/**
 * The mount that a path is in, by /proc/self/mountinfo: the last one, and the longest, whose mount point
 * leads to it.
 */
async function mountOf(path: string): Promise<{ numbers: string; type: string; source: string }> {
  const real = await realpath(path);
  let found: { point: string; numbers: string; type: string; source: string } | null = null;
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')) {
    const [left, right] = line.split(' - ');
    if (right === undefined) continue;
    const [, , numbers, , escaped] = left!.split(' ');
    const point = escaped!.replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    const isAbove = point === '/' || real === point || real.startsWith(`${point}/`);
    if (!isAbove || (found !== null && point.length < found.point.length)) continue;
    const [type, source] = right.split(' ');
    found = { point, numbers: numbers!, type: type!, source: source! };
  }
  if (found === null) throw new Error(`${path} is in no mount`);
  return found;
}

/** The directory that the file system's driver made for this superblock. */
async function sysfsOf(numbers: string, type: string, source: string): Promise<string | null> {
  const all = join('/sys/fs', type);
  if (type === 'btrfs') {
    const device = basename(await realpath(source));
    for (const uuid of await readdir(all)) {
      const devices = await readdir(join(all, uuid, 'devices')).catch(() => [] as string[]);
      if (devices.includes(device)) return join(all, uuid);
    }
    return null;
  }
  if (numbers.startsWith('0:')) return null;
  const device = basename(await realpath(join('/sys/dev/block', numbers)));
  return (await readdir(all).catch(() => [] as string[])).includes(device) ? join(all, device) : null;
}

async function mountId(path: string): Promise<bigint | null> {
  const here = await stat(path);
  const seenByFirst = join('/proc/1/root', resolve(path));
  const there = await stat(seenByFirst).catch(() => null);
  const same = there !== null && there.dev === here.dev && there.ino === here.ino;
  return (same ? uniqueMountId(seenByFirst) : null) ?? uniqueMountId(path);
}
