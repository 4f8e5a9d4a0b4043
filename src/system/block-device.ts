/** What a block device is, whatever it is called today: /dev/sdb may be another disk after the next boot. */
import { readFile, realpath, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { numbersOf } from './storage-instance.ts';

/** Below /sys/block/NAME, the most telling first: LVM and multipath, NVMe, SCSI, virtio, loop. */
const identities = [
  ['uuid', 'dm/uuid'],
  ['wwid', 'wwid'],
  ['wwid', 'device/wwid'],
  ['serial', 'serial'],
  ['serial', 'device/serial'],
  ['file', 'loop/backing_file'],
] as const;

/**
 * A name that the device keeps through reboots and renaming, with the partition's number where it is one. A
 * device that tells nothing of itself goes by its numbers. @throws Error when the path is no block device, or
 * cannot be looked at
 */
export async function blockDeviceIdentity(path: string): Promise<string> {
  const found = await stat(path);
  if (!found.isBlockDevice()) throw new Error(`${path} is no block device`);
  const numbers = numbersOf(found.rdev);
  const place = await realpath(join('/sys/dev/block', numbers));
  const read = async (file: string): Promise<string> => (await readFile(file, 'utf8').catch(() => '')).trim();
  const partition = await read(join(place, 'partition'));
  const disk = partition === '' ? place : join(place, '..');
  for (const [kind, file] of identities) {
    const value = await read(join(disk, file));
    if (value !== '') return `device ${kind} ${value}${partition === '' ? '' : ` partition ${partition}`}`;
  }
  return `device ${basename(place)} ${numbers}`;
}
