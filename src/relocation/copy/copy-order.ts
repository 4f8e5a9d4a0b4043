/**
 * Which blocks the background copy fetches next. Orders are asked in turn (`firstOf`), those that know what
 * is wanted soon first; the last one names everything, so that the copy ends. Every absent block is wanted:
 * what is fetched too early costs order, never bytes.
 */
import type { BlockRange } from '../../store/block-ranges.ts';
import type { Fetcher } from '../fetch/fetcher.ts';
import type { Survey } from './survey.ts';

export interface CopyOrder {
  /** A client has asked for these blocks, which were absent: to read them, or to write a part of them. */
  noticed(range: BlockRange, by: 'read' | 'write'): void;
  /**
   * Names data at the origin that is absent and not under way; what is named is not named again until the
   * disk has been gone through.
   * @param most blocks
   * @returns undefined when there is nothing to name now: the next order is asked
   */
  next(most: number): BlockRange | undefined;
}

/** Asks several in turn. */
export function firstOf(...orders: readonly CopyOrder[]): CopyOrder {
  return {
    noticed(range, by) {
      for (const order of orders) order.noticed(range, by);
    },
    next(most) {
      for (const order of orders) {
        const range = order.next(most);
        if (range !== undefined) return range;
      }
      return undefined;
    },
  };
}

/** From the first block to the last, as far as the survey knows where there is data. */
export function inSequence(survey: Survey, fetcher: Fetcher): CopyOrder {
  return {
    noticed: () => undefined,
    next(most) {
      for (let data = survey.nextData(); data !== undefined; data = survey.nextData()) {
        const first = fetcher.nextIdle(data.first, data.end);
        const end = Math.min(fetcher.endOfIdle(first, data.end), first + most);
        survey.taken(end);
        if (first < end) return { first, end };
      }
      return undefined;
    },
  };
}
