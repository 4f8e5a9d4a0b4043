/**
 * How much data an origin holds: what the destination will need at most.
 *
 * libvirt waits for the answer, and a large disk at the end of a long line has many stretches to be asked for: so many are asked for at
 * once, and there is an end to it.
 */
import { AllocationFlag } from '../nbd/constants.ts';
import type { OriginLink } from './origin-link.ts';

/** Bytes that are asked for at once; BLOCK_STATUS takes less than 4 GiB. */
const STRETCH = 2 ** 31;
const AT_ONCE = 32;
const LIMIT_MS = 10_000;

/** Bytes of data at the origin; null where it does not tell, or not in time. */
export async function countData(link: OriginLink, sizeBytes: number): Promise<number | null> {
  let data = 0;
  let next = 0;
  let given = true;
  const walk = async (): Promise<void> => {
    while (given && next < sizeBytes) {
      const end = Math.min(next + STRETCH, sizeBytes);
      let offset = next;
      next = end;
      while (given && offset < end) {
        const counted = await countStretch(link, offset, end);
        if (counted === null) given = false;
        else {
          data += counted.data;
          offset = counted.end;
        }
      }
    }
  };
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    given = false;
    resolve();
  }, LIMIT_MS);
  await Promise.race([late, Promise.all(Array.from({ length: AT_ONCE }, walk))]);
  clearTimeout(timer);
  return given ? Math.min(data, sizeBytes) : null;
}

/** Of the answer to one request; the origin may give more or less than it was asked for. */
function countStretch(
  link: OriginLink,
  offset: number,
  end: number,
): Promise<{ data: number; end: number } | null> {
  return new Promise((resolve) => {
    link.extents(offset, end - offset, {
      complete: (errno, extents) => {
        if (errno !== 0) {
          resolve(null);
          return;
        }
        let at = offset;
        let data = 0;
        for (const extent of extents) {
          const length = Math.min(extent.length, end - at);
          at += length;
          if ((extent.flags & AllocationFlag.ZERO) === 0) data += length;
        }
        resolve(at === offset ? null : { data, end: at });
      },
    });
  });
}
