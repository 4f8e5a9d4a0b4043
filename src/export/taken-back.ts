/** What an administrator's reclaim changes in the record of a disk that has moved away. */
import type { ExportRecord } from '../store/record.ts';

/** Leases that are remembered as void. */
const KEPT_VOID = 16;

/** @param state that the disk has without the fence */
export function takenBack(
  record: Readonly<ExportRecord>,
  state: ExportRecord['state'],
): Partial<ExportRecord> {
  return {
    state,
    lease: null,
    movedTo: null,
    // The holder's is one more than ours: what is written here from now on is no older generation of that, nor the same.
    generation: record.generation + 2,
    voidLeases:
      record.lease === null ? record.voidLeases : [...record.voidLeases, record.lease].slice(-KEPT_VOID),
  };
}
