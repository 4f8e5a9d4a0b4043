/** Data and holes of a file, by SEEK_DATA and SEEK_HOLE. */
import { AllocationFlag } from '../../nbd/constants.ts';
import { lseek, Seek, SystemErrno } from '../../system/syscalls.ts';
import type { Extent } from '../completion.ts';

const HOLE = AllocationFlag.HOLE | AllocationFlag.ZERO;
/** More would hold up the loop; the client asks again from where the answer ends. */
const MAX_EXTENTS = 2048;

/**
 * @returns extents from `position`, contiguous, of at most `length` bytes together. A file that cannot tell
 * is all data.
 */
export function extentsOf(fd: number, position: number, length: number, one: boolean): Extent[] {
  const end = position + length;
  const extents: Extent[] = [];
  let at = position;
  while (at < end && extents.length < (one ? 1 : MAX_EXTENTS)) {
    const data = lseek(fd, at, Seek.DATA);
    let next: number;
    if (data > at || data === -SystemErrno.ENXIO) {
      next = data > at ? Math.min(data, end) : end;
      extents.push({ length: next - at, flags: HOLE });
    } else {
      const hole = data < 0 ? -1 : lseek(fd, at, Seek.HOLE);
      next = hole > at ? Math.min(hole, end) : end;
      extents.push({ length: next - at, flags: 0 });
    }
    at = next;
  }
  return extents;
}
