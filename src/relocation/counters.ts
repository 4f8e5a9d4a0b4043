/** What a relocation counts, over every process that had a part in it. */
import type { ExportRecord } from '../store/records/record.ts';
import type { Copying } from './disk-copy.ts';

export type Counters = Pick<ExportRecord, 'onDemandBytes' | 'backgroundBytes' | 'skippedBytes'>;

/** @param before of earlier processes. @param copying of this one; null before the takeover. */
export function countersSince(before: Counters, copying: Copying | null): Counters {
  return {
    onDemandBytes: before.onDemandBytes + (copying?.fetcher.onDemandBytes ?? 0),
    backgroundBytes: before.backgroundBytes + (copying?.fetcher.backgroundBytes ?? 0),
    skippedBytes: before.skippedBytes + (copying?.skippedBytes ?? 0),
  };
}
