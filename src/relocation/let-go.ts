/**
 * The last word to an origin: every block is here, retire.
 *
 * It is said for as long as it takes. The origin may be away, or its export may be being started again, and refuses us meanwhile. It may have
 * retired and its answer been lost: then it says so when we come back, or, where its host has forgotten it, is unknown for good.
 */
import { log } from '../log/log.ts';
import { LeaseVoid, OriginRetired } from '../nbd/client-handshake.ts';
import { Command, Errno } from '../nbd/constants.ts';
import type { OriginLink } from './origin-link.ts';

const REFUSED_FOR_GOOD_MS = 30_000;

/** Resolves when the origin has retired, or does not know us any more, or the link is closed. Takes over `link.onRefused`. */
export function tellToRetire(link: OriginLink, name: string): Promise<void> {
  return new Promise((resolve) => {
    let refusedSince = Number.POSITIVE_INFINITY;
    const voided = link.onRefused;
    link.onRefused = (error) => {
      if (error instanceof LeaseVoid) {
        voided?.(error);
        resolve();
        return;
      }
      refusedSince = Math.min(refusedSince, performance.now());
      if (!(error instanceof OriginRetired) && performance.now() - refusedSince < REFUSED_FOR_GOOD_MS) return;
      log.info(`${name}: the origin does not know the lease any more (${error.message}): it is let go`);
      resolve();
    };
    link.command(Command.XNBD_RETIRE, {
      complete: (errno) => {
        if (errno !== 0 && errno !== Errno.ESHUTDOWN)
          log.warning(`${name}: the origin answers error ${errno} to retire`);
        resolve();
      },
    });
  });
}
