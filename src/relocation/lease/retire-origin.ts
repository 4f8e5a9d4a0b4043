/**
 * The last word to an origin: every block is here, retire.
 *
 * It is said for as long as it takes, for until it is heard the origin stays fenced, and nothing else lifts
 * that. The origin may be away, its gateway may be up before its exports are, a certificate may have run out,
 * its disk may be full: all of that passes, or an administrator sees it in our status. It is given up only
 * where nothing is left that could hear it: the origin, or its host, says that it has retired (its answer was
 * lost; the disk may be deleted there by now), that another lease holds it, or, for UNKNOWN_MS, that there is
 * no such disk on its host.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { log } from '../../log/log.ts';
import { Command, Errno, OptionReply } from '../../nbd/constants.ts';
import { type HandshakeError, LeaseVoid, OriginRetired } from '../../nbd/handshake/client-handshake.ts';
import { PresentMap } from '../../store/maps/present-map.ts';
import type { RecordKeeper } from '../../store/records/record-keeper.ts';
import type { OriginLink } from '../origin/link.ts';

/** A host that starts may not have its disks yet. */
const UNKNOWN_MS = 600_000;
/** Another lease, generation or disk. */
const FOREIGN_MS = 30_000;
const ASK_AGAIN_MS = 5000;

export interface RetireOriginOptions {
  link: OriginLink;
  keeper: RecordKeeper;
  stateDir: string;
  /** Closes the present map, if there is one. */
  closeMap: () => Promise<void>;
  /** The export is being stopped. */
  stopped: () => boolean;
  /** What hinders, in one line, for the status. */
  hindered: (reason: string) => void;
}

/**
 * Resolves when the origin has been told and our record says so, or the export is being stopped. @throws
 * Error when the record cannot be written.
 */
export async function retireOrigin(options: RetireOriginOptions): Promise<void> {
  const { link, keeper, stateDir, closeMap, stopped } = options;
  if (link.lends) await tellToRetire(options);
  if (stopped()) return;
  // An origin that has retired hangs up: that is no outage.
  link.close();
  // The map first: a record without an origin is that of a target, which has none.
  await closeMap();
  await PresentMap.remove(stateDir);
  await keeper.update({ origin: null });
  log.info('the origin is let go', { id: 'origin-let-go' });
}

/**
 * Resolves when the origin has retired, or nothing is left to be told, or the link is closed. Takes over
 * `link.onRefused`.
 */
function tellToRetire({ link, stopped, hindered }: RetireOriginOptions): Promise<void> {
  return new Promise((resolve) => {
    const refusals = new Refusals();
    const voided = link.onRefused;
    link.onRefused = (refusal) => {
      if (refusal instanceof LeaseVoid) voided?.(refusal);
      else if (!refusals.isFinal(refusal, performance.now())) return;
      else log.info(`at the origin nobody is left to be told (${refusal.message}): it is let go`);
      resolve();
    };
    const tell = (): void =>
      link.command(Command.XNBD_RETIRE, {
        complete: (errno) => {
          if (errno === 0 || errno === Errno.ESHUTDOWN) resolve();
          else if (errno === Errno.EINVAL || errno === Errno.EPERM) {
            log.warning(`the origin answers error ${errno} to retire: it is let go as it is`);
            resolve();
          } else {
            hindered(`the origin cannot retire yet: error ${errno}, see its log; it is asked again`);
            void sleep(ASK_AGAIN_MS, undefined, { ref: false }).then(() => (stopped() ? resolve() : tell()));
          }
        },
      });
    tell();
  });
}

/** How long the origin has been giving which answer. */
export class Refusals {
  #answer = 0;
  #since = 0;

  /** True when this one tells that the origin will never take us back. @param now ms of a steady clock */
  isFinal(refusal: HandshakeError, now: number): boolean {
    if (refusal instanceof OriginRetired) return true;
    if (refusal.answer !== this.#answer) this.#since = now;
    this.#answer = refusal.answer;
    switch (refusal.answer) {
      case OptionReply.ERR_UNKNOWN:
        return now - this.#since >= UNKNOWN_MS;
      case OptionReply.ERR_POLICY:
        return now - this.#since >= FOREIGN_MS;
      default:
        return false;
    }
  }
}
