/**
 * The origin has gone on without us: an administrator there took the disk back (reclaim), or its guest was
 * started anew while we stood by. What we have is void then, for good. From the takeover on it may hold what
 * our guest wrote, so it is left for the administrator to look at and delete; but no client is served from it
 * again.
 */

import { log } from '../../log/log.ts';
import type { RecordKeeper } from '../../store/records/record-keeper.ts';

/** @param takenOver the disk was ours. Resolves when the record says that it is void. */
export async function endVoid(keeper: RecordKeeper, takenOver: boolean, reason: string): Promise<void> {
  const { name } = keeper.record;
  if (!takenOver) {
    log.error(`${reason}; this arrival is void: give it up (xnbdctl abandon ${name})`, { id: 'lease-void' });
    return;
  }
  log.error(`${reason}; what is here is void, and is served no more`, { id: 'lease-void' });
  const reclaimed = `${reason}; if nobody wants what its guest wrote here last: xnbdctl delete ${name} --force`;
  await keeper.update({ state: 'reclaimed', reclaimed }).catch((error: unknown) => {
    // The next start is told again.
    log.error(`its record cannot be written: ${(error as Error).message}`);
  });
}
