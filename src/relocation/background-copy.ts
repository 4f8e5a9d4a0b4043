/**
 * Copies what is still absent, from the first block to the last, while the guest works.
 *
 * It walks the disk twice over, one walk ahead of the other: the first asks the origin for the allocation of a stretch (BLOCK_STATUS)
 * and marks holes as present without fetching them; the second fetches what remains, as much at a time as the window allows
 * (background-window.ts). An origin that does not tell its allocation is all data. What fails is tried again in a later round:
 * the copy is over when every block is present, and not before.
 */

import { log } from '../log/log.ts';
import { AllocationFlag, Errno } from '../nbd/constants.ts';
import type { Extent } from '../store/completion.ts';
import type { Image } from '../store/image.ts';
import { BLOCK_SIZE, type PresentMap } from '../store/present-map.ts';
import { BackgroundWindow } from './background-window.ts';
import type { BlockLocks } from './block-locks.ts';
import { Countdown } from './countdown.ts';
import type { Fetcher } from './fetcher.ts';
import type { OriginLink } from './origin-link.ts';

/** Bytes whose allocation is asked for at once. */
const STRETCH = 128 * 1024 * 1024;
/** Stretches of data that may wait for the second walk. */
const MAX_RANGES = 1024;
const RETRY_MS = 1000;

interface Range {
  first: number;
  end: number;
}

export interface BackgroundCopyOptions {
  link: OriginLink;
  fetcher: Fetcher;
  image: Image;
  map: PresentMap;
  locks: BlockLocks;
}

export class BackgroundCopy {
  /** Bytes that were holes at the origin, and never fetched. */
  skippedBytes = 0;
  /** The last failure, one line; null while all is well. */
  error: string | null = null;
  readonly #parts: BackgroundCopyOptions;
  readonly #window = new BackgroundWindow();
  /** First walk: the next block whose allocation is unknown. */
  #surveyed = 0;
  #surveying = false;
  /** Second walk: data that the survey found, in order. */
  #ranges: Range[] = [];
  #skipping = 0;
  #retryTimer: NodeJS.Timeout | null = null;
  #running = false;

  constructor(parts: BackgroundCopyOptions) {
    this.#parts = parts;
  }

  start(): void {
    this.#running = true;
    this.proceed();
  }

  stop(): void {
    this.#running = false;
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
  }

  /** Looks what can be done next; to be called whenever a fetch has settled. */
  proceed(): void {
    if (!this.#running || this.#retryTimer !== null) return;
    this.#survey();
    this.#fetch();
    const { map } = this.#parts;
    const roundOver = this.#surveyed === map.blocks && !this.#surveying && this.#ranges.length === 0;
    if (
      roundOver &&
      this.#skipping === 0 &&
      this.#window.inFlight === 0 &&
      this.#parts.fetcher.idle &&
      !map.complete
    ) {
      this.#surveyed = 0;
      this.#retryLater();
    }
  }

  #retryLater(): void {
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = null;
      this.proceed();
    }, RETRY_MS);
  }

  #survey(): void {
    const { map, link } = this.#parts;
    if (this.#surveying || this.#surveyed === map.blocks || this.#ranges.length > MAX_RANGES) return;
    const first = map.nextAbsent(this.#surveyed);
    if (first === map.blocks) {
      this.#surveyed = first;
      return;
    }
    const offset = first * BLOCK_SIZE;
    const length = Math.min(STRETCH, map.sizeBytes - offset);
    this.#surveying = true;
    link.extents(offset, length, {
      complete: (errno, extents) => {
        this.#surveying = false;
        if (errno === 0) {
          this.#takeSurvey(first, Math.ceil((offset + length) / BLOCK_SIZE), extents);
        } else if (errno === Errno.ENOTSUP || errno === Errno.EINVAL) {
          this.#ranges.push({ first, end: map.blocks });
          this.#surveyed = map.blocks;
        } else if (errno !== Errno.ESHUTDOWN) {
          this.#failed(`the origin answers error ${errno} to block status at ${offset}`);
          this.#retryLater();
        }
        this.proceed();
      },
    });
  }

  /** Sorts the extents from block `first` on into holes, which are skipped, and data; whole blocks of zeros count as holes. */
  #takeSurvey(first: number, end: number, extents: readonly Extent[]): void {
    const { sizeBytes } = this.#parts.map;
    let offset = first * BLOCK_SIZE;
    let dataFrom = first;
    for (const { length, flags } of extents) {
      const extentEnd = Math.min(offset + length, sizeBytes);
      const holeFirst = Math.ceil(offset / BLOCK_SIZE);
      const holeEnd = Math.min(extentEnd === sizeBytes ? end : Math.floor(extentEnd / BLOCK_SIZE), end);
      if ((flags & AllocationFlag.ZERO) !== 0 && holeFirst < holeEnd) {
        this.#addData(dataFrom, holeFirst);
        this.#skip(holeFirst, holeEnd);
        dataFrom = holeEnd;
      }
      offset = extentEnd;
      if (offset === sizeBytes) break;
    }
    const known = offset === sizeBytes ? end : Math.min(Math.floor(offset / BLOCK_SIZE), end);
    // An answer of less than a block would not get us on: that block is data.
    this.#surveyed = Math.max(known, dataFrom, first + 1);
    this.#addData(dataFrom, this.#surveyed);
  }

  #addData(first: number, end: number): void {
    if (first < end) this.#ranges.push({ first, end });
  }

  /** Holes of the origin are holes here: what is still absent there is punched (the image may have held something) and marked. */
  #skip(first: number, end: number): void {
    const { locks, map, image } = this.#parts;
    this.#skipping++;
    locks.acquire(first, end - first, (release) => {
      const runs = map.absentRuns(first, end);
      const all = new Countdown(runs.length, {
        complete: (errno) => {
          release();
          this.#skipping--;
          if (errno !== 0)
            this.#failed(`holes at ${first * BLOCK_SIZE} cannot be punched in ${image.path}: error ${errno}`);
          this.#parts.fetcher.onSettled?.();
        },
      });
      for (const run of runs) {
        const offset = run.first * BLOCK_SIZE;
        const length = Math.min(run.end * BLOCK_SIZE, map.sizeBytes) - offset;
        image.punch(offset, length, {
          complete: (errno) => {
            const outcome = errno !== 0 ? errno : map.mark(run.first, run.end - run.first);
            if (outcome === 0) this.skippedBytes += length;
            all.complete(outcome);
          },
        });
      }
    });
  }

  #fetch(): void {
    const { fetcher } = this.#parts;
    while (this.#window.open) {
      const range = this.#ranges[0];
      if (range === undefined) return;
      range.first = fetcher.nextIdle(range.first, range.end);
      if (range.first === range.end) {
        this.#ranges.shift();
        this.#survey();
        continue;
      }
      const end = Math.min(
        fetcher.endOfIdle(range.first, range.end),
        range.first + this.#window.chunk / BLOCK_SIZE,
      );
      this.#fetchChunk(range.first, end);
      range.first = end;
    }
  }

  #fetchChunk(first: number, end: number): void {
    const sentAt = performance.now();
    const bytes = Math.min(end * BLOCK_SIZE, this.#parts.map.sizeBytes) - first * BLOCK_SIZE;
    this.#window.sent(bytes);
    this.#parts.fetcher.background(first, end, {
      // The fetcher tells everybody afterwards, us included.
      complete: (errno) => {
        if (errno === 0) {
          this.error = null;
          const now = performance.now();
          this.#window.answered(bytes, now - sentAt, now);
          return;
        }
        this.#window.failed(bytes);
        if (errno === Errno.ESHUTDOWN) return;
        this.#failed(`blocks at ${first * BLOCK_SIZE} cannot be copied: error ${errno}`);
        this.#retryLater();
      },
    });
  }

  #failed(message: string): void {
    if (this.error !== message) log.error(message);
    this.error = message;
  }
}
