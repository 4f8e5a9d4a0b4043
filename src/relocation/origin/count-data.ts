/**
 * How much data an origin holds: what the destination will need at most.
 *
 * libvirt waits for the answer, and a large disk at the end of a long line has many stretches to be asked
 * for: so many are asked for at once, and there is an end to it.
 */
import { AllocationFlag } from '../../nbd/constants.ts';
import type { OriginLink } from './link.ts';

/** Bytes that are asked for at once; BLOCK_STATUS takes less than 4 GiB. */
const STRETCH = 2 ** 31;
const AT_ONCE = 32;
const LIMIT_MS = 10_000;

interface Count {
  /** Bytes of data so far. */
  data: number;
  /** Where the next stretch begins. */
  next: number;
  /** The origin does not tell, or the time is up. */
  failed: boolean;
}

/** Bytes of data at the origin; null where it does not tell, or not in time. */
export async function countData(link: OriginLink, sizeBytes: number): Promise<number | null> {
  const count: Count = { data: 0, next: 0, failed: false };
  const late = Promise.withResolvers<null>();
  const timer = setTimeout(() => {
    count.failed = true;
    late.resolve(null);
  }, LIMIT_MS);
  const walks = Array.from({ length: AT_ONCE }, () => walk(link, sizeBytes, count));
  await Promise.race([late.promise, Promise.all(walks)]);
  clearTimeout(timer);
  return count.failed ? null : Math.min(count.data, sizeBytes);
}

/** Stretch by stretch, as long as there are any. */
async function walk(link: OriginLink, sizeBytes: number, count: Count): Promise<void> {
  while (!count.failed && count.next < sizeBytes) {
    let offset = count.next;
    const end = Math.min(offset + STRETCH, sizeBytes);
    count.next = end;
    while (!count.failed && offset < end) {
      const counted = await countStretch(link, offset, end);
      if (counted === null) count.failed = true;
      else {
        count.data += counted.data;
        offset = counted.end;
      }
    }
  }
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
