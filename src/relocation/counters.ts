/** What a relocation counts, over every process that had a part in it. */
import type { ExportRecord } from '../store/record.ts';
import type { BackgroundCopy } from './background-copy.ts';
import type { Fetcher } from './fetcher.ts';

export type Counters = Pick<ExportRecord, 'onDemandBytes' | 'backgroundBytes' | 'skippedBytes'>;

/** @param before of earlier processes. @param fetcher, background of this one; null before the takeover. */
export function countersSince(
  before: Counters,
  fetcher: Fetcher | null,
  background: BackgroundCopy | null,
): Counters {
  return {
    onDemandBytes: before.onDemandBytes + (fetcher?.onDemandBytes ?? 0),
    backgroundBytes: before.backgroundBytes + (fetcher?.backgroundBytes ?? 0),
    skippedBytes: before.skippedBytes + (background?.skippedBytes ?? 0),
  };
}
