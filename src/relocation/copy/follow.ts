/**
 * The copy follows the guest: the paper's read-ahead (5.2), made general. After a read that had to wait, the
 * neighbourhood of what was read is copied next, the part behind it first, because three of four reads lie
 * within a megabyte of one of the last few, and nearly half go on where another ended. A sequential reader,
 * forward or backward, waits once: from then on it waits for what is on its way already, and each such wait
 * moves its neighbourhood on.
 *
 * The neighbourhoods are a stack, the newest on top, so that several readers get their turn while the older
 * ones are not forgotten. How far one reaches depends on the path: what a fixed reach gains on a short line
 * it loses on a long one, where the guest is through with it before the next round trip is over.
 */
import { BLOCK_SIZE, type BlockRange } from '../../store/block-ranges.ts';
import type { Fetcher } from '../fetch/fetcher.ts';
import type { CopyOrder } from './copy-order.ts';

const LEAST_REACH = 512 * 1024;
const MOST_NEIGHBOURHOODS = 256;

/** What is left to copy around one read: [forward, end) behind it, [start, back) before it; blocks. */
interface Neighbourhood {
  start: number;
  back: number;
  forward: number;
  end: number;
}

export interface FollowOptions {
  fetcher: Fetcher;
  /** Blocks of the disk. */
  blocks: number;
  /** Bytes that the path holds now, bandwidth x round trip. */
  pathBytes: () => number;
  enabled: () => boolean;
}

export class Follow implements CopyOrder {
  readonly #options: FollowOptions;
  /** The newest last. */
  #stack: Neighbourhood[] = [];

  constructor(options: FollowOptions) {
    this.#options = options;
  }

  noticed({ first, end }: BlockRange, by: 'read' | 'write'): void {
    const { blocks, enabled, pathBytes } = this.#options;
    if (by === 'write' || !enabled()) return;
    const reach = Math.ceil(Math.max(LEAST_REACH, 2 * pathBytes()) / BLOCK_SIZE);
    // A reader that goes on is one neighbourhood that moves, not many.
    const known = this.#stack.findLastIndex((each) => each.start <= first && first <= each.end);
    if (known !== -1) this.#stack.splice(known, 1);
    else if (this.#stack.length === MOST_NEIGHBOURHOODS) this.#stack.shift();
    this.#stack.push({
      start: Math.max(first - reach, 0),
      back: first,
      forward: end,
      end: Math.min(end + reach, blocks),
    });
  }

  next(most: number): BlockRange | undefined {
    if (!this.#options.enabled()) this.#stack = [];
    for (let top = this.#stack.at(-1); top !== undefined; top = this.#stack.at(-1)) {
      const range = this.#ahead(top, most) ?? this.#before(top, most);
      if (range !== undefined) return range;
      this.#stack.pop();
    }
    return undefined;
  }

  #ahead(top: Neighbourhood, most: number): BlockRange | undefined {
    const { fetcher } = this.#options;
    const first = fetcher.nextIdle(top.forward, top.end);
    const end = Math.min(fetcher.endOfIdle(first, top.end), first + most);
    top.forward = Math.max(end, first);
    return first < end ? { first, end } : undefined;
  }

  /** From the read towards the start of the disk. */
  #before(top: Neighbourhood, most: number): BlockRange | undefined {
    while (top.start < top.back) {
      const from = Math.max(top.back - most, top.start);
      const last = this.#lastIdle(from, top.back);
      top.back = last?.first ?? from;
      if (last !== undefined) return last;
    }
    return undefined;
  }

  #lastIdle(from: number, end: number): BlockRange | undefined {
    const { fetcher } = this.#options;
    let last: BlockRange | undefined;
    for (let first = fetcher.nextIdle(from, end); first < end; first = fetcher.nextIdle(last.end, end))
      last = { first, end: fetcher.endOfIdle(first, end) };
    return last;
  }
}
