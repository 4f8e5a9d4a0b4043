/**
 * What an administrator's reclaim changes in the record of a disk that has moved away; and which leases it
 * makes void. Only the holder of such a lease is told so (XNBD_ERR_VOID).
 */
import type { ExportRecord } from './record.ts';

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
    leaseIdentity: null,
    movedTo: null,
    // The holder's is one more than ours: what is written here from now on is no older generation of that,
    // nor the same.
    generation: record.generation + 2,
    voidLeases: voidedWith(record, record.lease),
  };
}

/** The leases that are void for good once this one is, too. */
export function voidedWith({ voidLeases }: Readonly<ExportRecord>, lease: string | null): string[] {
  return lease === null || voidLeases.includes(lease) ? voidLeases : [...voidLeases, lease].slice(-KEPT_VOID);
}

/** What this lease was given for is void. */
export function isVoid({ state, lease, voidLeases }: Readonly<ExportRecord>, asked: string): boolean {
  // That of a disk which is void itself is not in the list before its lender has been told.
  return voidLeases.includes(asked) || (state === 'reclaimed' && lease === asked);
}
