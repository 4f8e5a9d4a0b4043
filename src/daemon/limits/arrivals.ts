/**
 * The disks that arrive on this host, as their exports' statuses tell: which of them are copied and which
 * queue (`max-arriving`), and what each could use of a rate that they share.
 */

import { parseCap, peerAt } from '../../config/caps.ts';
import type { Config } from '../../config/config.ts';
import type { ExportStatus } from '../../control/status.ts';
import { parseNbdUri } from '../../nbd/uri.ts';
import type { Claim } from './deal.ts';

/** What a disk gets beyond what it uses, so that it can grow: times its use, and a part of its share. */
const GROWTH = 1.25;
/** Between two looks at the counters, ms: shorter ones tell chance. */
const LOOK_MS = 400;
/** Of a new look, in the mean. */
const NEW_PART = 0.6;

/** The rates at which one disk comes, from one status to the next. bit/s. */
export class Meter {
  demand = 0;
  copy = 0;
  #before: { at: number; onDemandBytes: number; backgroundBytes: number } | undefined;

  /** @param now ms of a steady clock */
  add({ onDemandBytes, backgroundBytes }: ExportStatus, now: number): void {
    const before = this.#before;
    if (before !== undefined && now - before.at < LOOK_MS) return;
    this.#before = { at: now, onDemandBytes, backgroundBytes };
    // A new process begins where the last checkpoint of the one before was.
    if (
      before === undefined ||
      onDemandBytes < before.onDemandBytes ||
      backgroundBytes < before.backgroundBytes
    )
      return;
    const toRate = 8000 / (now - before.at);
    this.demand += NEW_PART * ((onDemandBytes - before.onDemandBytes) * toRate - this.demand);
    this.copy += NEW_PART * ((backgroundBytes - before.backgroundBytes) * toRate - this.copy);
  }
}

/** Blocks of it are absent, and it may fetch them: the takeover is over. */
export function isArriving({ state, origin, presentBytes, sizeBytes }: ExportStatus): boolean {
  return origin !== null && presentBytes < sizeBytes && state !== 'standby' && state !== 'retired';
}

/** It cannot go on whatever it is given. @param whys what the daemon has told it when it gave it nothing */
export function isHindered(
  { originReachable, copyPaused, settings }: ExportStatus,
  whys: ReadonlySet<string>,
): boolean {
  return !originReachable || settings['paused'] === 'on' || (copyPaused !== null && !whys.has(copyPaused));
}

/**
 * Those that have to wait, so that no more than `most` are copied at a time; one that cannot go on makes way
 * for as long.
 * @param arriving in the order of their takeovers, which is that of the queue
 */
export function queued(
  arriving: readonly ExportStatus[],
  hindered: (status: ExportStatus) => boolean,
  most: number | null,
): ReadonlySet<string> {
  if (most === null) return new Set();
  const able = arriving.filter((status) => !hindered(status));
  return new Set(able.slice(most).map(({ name }) => name));
}

/** What a disk claims of the caps. @param may it may be copied now */
export function claimOf(
  status: ExportStatus,
  { demand, copy }: Meter,
  { may, peer, cap }: { may: boolean; peer: string | null; cap: number | null },
): Claim {
  const { name, settings, copyHeld } = status;
  const own = parseCap(settings['copy-rate'] ?? 'none') ?? Number.POSITIVE_INFINITY;
  const most = may ? Math.max(own - demand, 0) : 0;
  // Not held back by anything that is set: it gets what it uses, and a little to grow by.
  const want = copyHeld ? Number.POSITIVE_INFINITY : copy * GROWTH + (cap ?? 0) / 100;
  return { name, peer, weight: Number(settings['weight'] ?? 100) || 100, demand, want, most };
}

/** An export of an earlier release takes what it takes. */
export function claimOfUnled(status: ExportStatus, { demand, copy }: Meter, peer: string | null): Claim {
  return { name: status.name, peer, weight: 1, demand: demand + copy, want: 0, most: 0 };
}

/** The peer that a disk comes from; null: it comes from a socket of this host. */
export function peerOf({ origin }: ExportStatus, { peers }: Pick<Config, 'peers'>): string | null {
  try {
    const address = parseNbdUri(origin ?? '');
    return address.kind === 'unix' ? null : peerAt(peers, address);
  } catch {
    return null;
  }
}
