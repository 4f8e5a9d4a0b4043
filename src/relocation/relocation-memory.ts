/**
 * What a relocation knows beyond its record and its map, for the process that takes it over: after kill -9 it
 * is not known any more, and the worse is taken for granted.
 */

import { readShare, type Share } from './copy/copy-caps.ts';

export interface RelocationMemory {
  /** A write, trim or zeroing has been acknowledged since the takeover: giving up would lose it. */
  acknowledged: boolean;
  guestRuns: boolean;
  readInStandby: boolean;
  /** The origin may have been fenced for us. */
  askedToFence: boolean;
  /**
   * The inode of the connection to the origin, which stays open until there is a new one: an origin that is
   * not fenced takes the disk back when the last connection of the lease goes. null: there is none.
   */
  link: string | null;
  /** What the daemon had told last (copy/copy-caps.ts); left out by a process that knew no shares. */
  share?: Share | undefined;
}

const FLAGS = ['acknowledged', 'guestRuns', 'readInStandby', 'askedToFence'] as const;

/** @returns null for what is none, such as that of a disk that was no relocation */
export function readMemory(value: unknown): RelocationMemory | null {
  if (typeof value !== 'object' || value === null) return null;
  const found = value as Partial<RelocationMemory>;
  if (FLAGS.some((flag) => typeof found[flag] !== 'boolean')) return null;
  return {
    ...(found as RelocationMemory),
    link: typeof found.link === 'string' ? found.link : null,
    share: readShare(found.share),
  };
}
