/**
 * Is there room for a disk that arrives? Asked before the migration begins, while saying no costs nothing.
 */
import { statfs } from 'node:fs/promises';
import type { ExportStatus } from '../../control/status.ts';
import type { Host } from '../host.ts';

/**
 * What an arriving disk needs at most is the data at its origin, as far as that tells, else its size.
 * @throws Error with the bytes needed and free when the disks do not fit.
 */
export async function checkFreeSpace(
  host: Host,
  domainName: string,
  arriving: ExportStatus[],
): Promise<void> {
  const { images } = host.config.paths;
  const { bavail, bsize } = await statfs(images);
  const freeBytes = bavail * bsize;
  const neededBytes = arriving.reduce((sum, status) => sum + mostBytes(status), 0);
  // Others that stand by have been promised their room already.
  const promisedBytes = host.exports
    .running()
    .filter((status) => status.state === 'standby' && !arriving.some(({ name }) => name === status.name))
    .reduce((sum, status) => sum + mostBytes(status), 0);
  if (neededBytes + promisedBytes > freeBytes) {
    const promised = promisedBytes === 0 ? '' : ` (${promisedBytes} of them promised to other arrivals)`;
    throw new Error(
      `no room for the disks of ${domainName}: ${neededBytes} bytes needed in ${images}, ${freeBytes} free${promised}; ` +
        'make room there, or name another directory as [paths] images in xnbd.conf',
    );
  }
}

function mostBytes(status: ExportStatus): number {
  return status.originDataBytes ?? status.sizeBytes;
}
