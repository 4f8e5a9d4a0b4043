/** How much data an origin holds: what the destination will need at most. */
import { AllocationFlag } from '../nbd/constants.ts';
import type { OriginLink } from './origin-link.ts';

/** Bytes of data at the origin; null where it does not tell. */
export async function countData(link: OriginLink, sizeBytes: number): Promise<number | null> {
  let data = 0;
  for (let offset = 0; offset < sizeBytes; ) {
    const { promise, resolve } = Promise.withResolvers<number | null>();
    link.extents(offset, sizeBytes - offset, {
      complete: (errno, extents) => {
        if (errno !== 0) {
          resolve(null);
          return;
        }
        let length = 0;
        for (const extent of extents) {
          length += extent.length;
          if ((extent.flags & AllocationFlag.ZERO) === 0) data += extent.length;
        }
        resolve(length);
      },
    });
    const length = await promise;
    if (length === null || length === 0) return null;
    offset += length;
  }
  return Math.min(data, sizeBytes);
}
