/**
 * Copies what is still absent while the guest works: what lies around its reads (follow.ts), and else from
 * the first block to the last.
 *
 * For that it walks the disk twice over, one walk ahead of the other: the first (survey.ts) asks the origin
 * which stretches are holes, which are marked as present without fetching them; the second fetches what
 * remains, as much at a time as the window allows (path-window.ts). What fails is tried again in a
 * later round, and rounds that bring nothing become rare: the copy is over when every block is present, and
 * not before. While the image has no room it pauses (fetch/image-space.ts).
 */

import { log } from '../../log/log.ts';
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, type BlockRange, bytesIn } from '../../store/block-ranges.ts';
import type { Image } from '../../store/image/image.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { BadBlocks } from '../fetch/bad-blocks.ts';
import type { BlockLocks } from '../fetch/block-locks.ts';
import type { Fetcher } from '../fetch/fetcher.ts';
import type { ImageSpace } from '../fetch/image-space.ts';
import type { OriginLink } from '../origin/link.ts';
import { type CopyOrder, firstOf, inSequence } from './copy-order.ts';
import { Follow } from './follow.ts';
import { HoleSkipper } from './hole-skipper.ts';
import { type Pace, Reopening } from './pace.ts';
import { Survey } from './survey.ts';

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 60_000;

export interface BackgroundCopyOptions {
  link: OriginLink;
  fetcher: Fetcher;
  image: Image;
  map: PresentMap;
  locks: BlockLocks;
  space: ImageSpace;
  bad: BadBlocks;
  pace: Pace;
  /** Bytes that the path holds now, bandwidth x round trip. */
  pathBytes: () => number;
  /** The surroundings of the guest's reads come first. */
  follow: () => boolean;
}

export class BackgroundCopy {
  /** The last failure that is not one of single blocks, one line; null while all is well. */
  error: string | null = null;
  readonly #parts: BackgroundCopyOptions;
  readonly #order: CopyOrder;
  readonly #reopening = new Reopening(() => this.proceed());
  /** Chunks. */
  #underWay = 0;
  readonly #survey: Survey;
  readonly #holes: HoleSkipper;
  #retryTimer: NodeJS.Timeout | null = null;
  #retryMs = FIRST_RETRY_MS;
  /** Bytes that were present when the round began. */
  #presentBefore = -1;
  #running = false;

  constructor(parts: BackgroundCopyOptions) {
    this.#parts = parts;
    this.#holes = new HoleSkipper({
      ...parts,
      done: (error) => {
        if (error !== null) this.#failed(error);
        this.proceed();
      },
    });
    this.#survey = new Survey({
      ...parts,
      hole: (first, end) => this.#holes.add(first, end),
      holesWaiting: () => this.#holes.waiting,
      failed: (errno) => {
        this.#failed(`the origin answers error ${errno} to block status`);
        this.#retryLater();
      },
      proceeded: () => this.proceed(),
    });
    const follow = new Follow({ ...parts, blocks: parts.map.blocks, enabled: parts.follow });
    this.#order = firstOf(follow, inSequence(this.#survey, parts.fetcher));
    parts.fetcher.onNoticed = (range, by) => this.#order.noticed(range, by);
    parts.fetcher.onSettled = () => this.proceed();
  }

  /** Bytes that were holes at the origin, and never fetched. */
  get skippedBytes(): number {
    return this.#holes.skippedBytes;
  }

  /** Bytes that are still to be fetched, as far as holes are known; null: that is not known yet. */
  get leftBytes(): number | null {
    const { map } = this.#parts;
    const absent = map.sizeBytes - map.presentBytes;
    const unknownHoles = this.#survey.unknownHoles(absent / BLOCK_SIZE);
    if (unknownHoles === null) return null;
    const holes = (this.#holes.waitingBlocks + unknownHoles) * BLOCK_SIZE;
    return Math.max(Math.round(absent - holes), 0);
  }

  start(): void {
    this.#running = true;
    this.proceed();
  }

  stop(): void {
    this.#running = false;
    this.#holes.stop();
    this.#reopening.stop();
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
  }

  /** Looks what can be done next; to be called when there is space again. */
  proceed(): void {
    const { map, fetcher, space } = this.#parts;
    if (!this.#running || this.#retryTimer !== null || space.shortage !== null || map.complete) return;
    this.#survey.proceed();
    this.#fetch();
    const roundOver = this.#survey.isOver && this.#holes.idle && this.#underWay === 0;
    if (roundOver && fetcher.idle) {
      this.#survey.again();
      this.#retryLater();
    }
  }

  /** The next round, soon after one that brought something. */
  #retryLater(): void {
    if (this.#retryTimer !== null) return;
    const { presentBytes } = this.#parts.map;
    this.#retryMs =
      presentBytes > this.#presentBefore ? FIRST_RETRY_MS : Math.min(this.#retryMs * 2, LAST_RETRY_MS);
    this.#presentBefore = presentBytes;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = null;
      this.proceed();
    }, this.#retryMs);
  }

  #fetch(): void {
    const { pace } = this.#parts;
    while (pace.open && this.#running) {
      const range = this.#order.next(pace.chunk / BLOCK_SIZE);
      if (range === undefined) return;
      this.#fetchChunk(range);
    }
    if (this.#running) this.#reopening.await(pace);
  }

  #fetchChunk({ first, end }: BlockRange): void {
    const { pace } = this.#parts;
    const sentAt = performance.now();
    const bytes = bytesIn(first, end, this.#parts.map.sizeBytes);
    pace.sent(bytes);
    this.#underWay += 1;
    this.#parts.fetcher.background(first, end, {
      // `onSettled` follows.
      complete: (errno) => {
        this.#underWay -= 1;
        if (errno === 0) {
          this.error = null;
          const now = performance.now();
          pace.answered(bytes, now - sentAt, now);
          return;
        }
        pace.failed(bytes);
        // Single blocks and room are told elsewhere, and the link is being closed upon us.
        if (errno === Errno.EIO || errno === Errno.ENOSPC || errno === Errno.ESHUTDOWN) return;
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
