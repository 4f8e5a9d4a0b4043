/**
 * Is there room for a disk that arrives? Asked before the migration begins, while saying no costs nothing.
 *
 * Free is what no other disk will take: those that arrived before and miss blocks still, whether their guest
 * is here already or not, have been promised the room for them. Where two arrive at the same moment each may
 * count the other, and neither fits; both fit never.
 */
import { stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { ExportStatus } from '../../control/status.ts';
import type { Host } from '../host.ts';

/** @throws Error with the bytes needed and free when the disks do not fit. */
export async function checkFreeSpace(
  host: Host,
  domainName: string,
  arriving: ExportStatus[],
): Promise<void> {
  const { images } = host.config.paths;
  const { bavail, bsize } = await statfs(images);
  const freeBytes = bavail * bsize;
  const neededBytes = sum(arriving.map(missingBytes));
  const others = host.exports.running().filter(({ name }) => !arriving.some((each) => each.name === name));
  const promised = await Promise.all(
    others.map(async (each) => ((await isOn(images, each)) ? missingBytes(each) : 0)),
  );
  const promisedBytes = sum(promised);
  if (neededBytes + promisedBytes > freeBytes) {
    const less =
      promisedBytes === 0 ? '' : `, of which ${promisedBytes} are for disks that are still arriving`;
    throw new Error(
      `no room for the disks of ${domainName}: ${neededBytes} bytes needed in ${images}, ${freeBytes} free${less}; ` +
        'make room there, or name another directory as [paths] images in xnbd.conf',
    );
  }
}

/**
 * What is still to be fetched at most: absent blocks, of those the ones with data, as far as the origin
 * tells.
 */
function missingBytes(status: ExportStatus): number {
  const { sizeBytes, presentBytes, originDataBytes, onDemandBytes, backgroundBytes } = status;
  const absent = Math.max(0, sizeBytes - presentBytes);
  if (originDataBytes === null) return absent;
  return Math.min(absent, Math.max(0, originDataBytes - onDemandBytes - backgroundBytes));
}

/** Does the image take its room from the file system of this directory? */
async function isOn(images: string, { image }: ExportStatus): Promise<boolean> {
  const devices = await Promise.all(
    [images, dirname(image)].map((path) => stat(path).then(({ dev }) => dev)),
  ).catch(() => undefined);
  // Where that cannot be seen it is taken for so: a disk that does not fit costs more than one that waits.
  return devices === undefined || devices[0] === devices[1];
}

function sum(bytes: readonly number[]): number {
  return bytes.reduce((total, each) => total + each, 0);
}
