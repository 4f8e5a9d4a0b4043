/**
 * Fetches absent blocks from the origin and keeps them. Used after the takeover only: before it nothing may
 * be kept (rule 1).
 *
 * A block is fetched once at a time: a request for a block that is under way joins that fetch. When the bytes
 * arrive, readers get them at once; then, under the block lock, those blocks that are *still* absent are
 * written to the image and marked (rules 4 and 6); then the requests that wait for the block to be local are
 * answered. If the local image refuses (no room, a bad sector), readers have their data all the same and the
 * blocks stay absent (zeros need none: they become holes); so they do while room is short (image-space.ts),
 * but for those that a guest's write needs. What the origin cannot read as a whole is read in parts
 * (salvage.ts), so that an error is that of its own block alone.
 */

import { log } from '../../log/log.ts';
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, type BlockRange, BlockRanges, bytesIn } from '../../store/block-ranges.ts';
import type { Completion } from '../../store/completion.ts';
import { Countdown } from '../../store/countdown.ts';
import type { Image } from '../../store/image/image.ts';
import { Bitmap } from '../../store/maps/bitmap.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { BadBlocks } from './bad-blocks.ts';
import type { BlockLocks } from './block-locks.ts';
import type { BlockSource } from './block-source.ts';
import { Fetch, type LocalWaiter, type Reader } from './fetch.ts';
import type { ImageSpace } from './image-space.ts';
import { salvage } from './salvage.ts';
import { type Piece, piecesOf } from './zero-runs.ts';

export type { LocalWaiter, Reader };

/** Largest fetch, blocks: 1 MiB. */
const MAX_FETCH = 256;

export interface FetcherOptions {
  source: BlockSource;
  image: Image;
  map: PresentMap;
  locks: BlockLocks;
  space: ImageSpace;
  bad: BadBlocks;
}

export class Fetcher {
  /** Bytes that arrived because a client asked, and for the background copy. */
  onDemandBytes = 0;
  backgroundBytes = 0;
  /** Told after each fetch, kept or failed. */
  onSettled: (() => void) | null = null;
  /** Told of blocks that a client finds absent. */
  onNoticed: ((range: BlockRange, by: 'read' | 'write') => void) | null = null;
  readonly #parts: FetcherOptions;
  readonly #map: PresentMap;
  readonly #underWay: Bitmap;
  readonly #fetches = new Set<Fetch>();
  /** The error of the origin that was logged last. */
  #logged = 0;

  constructor(parts: FetcherOptions) {
    this.#parts = parts;
    this.#map = parts.map;
    this.#underWay = new Bitmap(parts.map.blocks);
  }

  /** Nothing is under way. */
  get idle(): boolean {
    return this.#fetches.size === 0;
  }

  /** The first block in [from, end) that is absent and not under way; `end` when there is none. */
  nextIdle(from: number, end: number): number {
    let block = from;
    while (block < end) {
      block = this.#map.nextAbsent(block, end);
      if (block === end || !this.#underWay.has(block)) return block;
      block = this.#underWay.nextClear(block, end);
    }
    return end;
  }

  /** Where a run of absent blocks that are not under way ends, which begins at `from`. */
  endOfIdle(from: number, end: number): number {
    return Math.min(this.#map.nextPresent(from, end), this.#underWay.nextSet(from, end));
  }

  /**
   * Gives a reader the bytes of [first, end), all of them absent now.
   * @returns in how many pieces they will come; the reader is completed once for each, later.
   */
  read(first: number, end: number, reader: Reader): number {
    this.onNoticed?.({ first, end }, 'read');
    const unsent: Fetch[] = [];
    let pieces = 0;
    for (let block = first; block < end; pieces++) {
      const fetch = this.#underWay.has(block) ? this.#find(block) : this.#addOnDemand(block, end, unsent);
      const pieceEnd = Math.min(end, fetch.end);
      fetch.addReader(reader, block, pieceEnd);
      block = pieceEnd;
    }
    for (const fetch of unsent) this.#send(fetch);
    return pieces;
  }

  /**
   * Makes blocks from `first` on local, for a client: all of them absent now, up to `end` or the end of one
   * fetch.
   * @returns the block behind those; `waiter` is completed for them, later.
   */
  keep(first: number, end: number, waiter: LocalWaiter): number {
    const unsent: Fetch[] = [];
    const fetch = this.#underWay.has(first) ? this.#find(first) : this.#addOnDemand(first, end, unsent);
    const until = Math.min(fetch.end, end);
    fetch.addWaiter(waiter, first, until);
    this.onNoticed?.({ first, end: until }, waiter.vital ? 'write' : 'read');
    for (const each of unsent) this.#send(each);
    return until;
  }

  /** Fetches [first, end), absent and not under way, at most MAX_FETCH blocks, for the background copy. */
  background(first: number, end: number, done: Completion): void {
    const fetch = this.#add(first, end, true);
    const waiter: LocalWaiter = { complete: (errno) => done.complete(errno), over: false, vital: false };
    fetch.addWaiter(waiter, first, end);
    this.#send(fetch);
  }

  #addOnDemand(first: number, end: number, unsent: Fetch[]): Fetch {
    const fetch = this.#add(first, Math.min(this.endOfIdle(first, end), first + MAX_FETCH), false);
    unsent.push(fetch);
    return fetch;
  }

  #send(fetch: Fetch): void {
    this.#parts.source.read(
      fetch.data,
      fetch.first * BLOCK_SIZE,
      { complete: (errno) => this.#answered(fetch, errno) },
      { unwanted: () => fetch.unwanted, background: fetch.background },
    );
  }

  #add(first: number, end: number, background: boolean): Fetch {
    const bytes = bytesIn(first, end, this.#map.sizeBytes);
    const fetch = new Fetch(first, end, bytes, background);
    this.#underWay.set(first, end - first);
    this.#fetches.add(fetch);
    return fetch;
  }

  #find(block: number): Fetch {
    for (const fetch of this.#fetches) if (fetch.first <= block && block < fetch.end) return fetch;
    throw new Error(`block ${block} is under way, but in no fetch`);
  }

  #answered(fetch: Fetch, errno: number): void {
    if (errno === 0) this.#arrived(fetch);
    else if (this.#map.hasAll(fetch.first, fetch.end)) this.#readLocally(fetch);
    else if (errno === Errno.EIO && fetch.end - fetch.first > 1) {
      salvage(this.#parts.source, fetch, (failed) => {
        if (failed === 0) this.#arrived(fetch);
        else this.#failed(fetch, failed);
      });
    } else this.#failed(fetch, errno);
  }

  /** The bytes are here, but for `fetch.unread`. */
  #arrived(fetch: Fetch): void {
    const { bad, locks } = this.#parts;
    for (const block of fetch.unread) bad.add(block, block + 1, 'origin');
    const arrived = fetch.data.length - fetch.unread.size * BLOCK_SIZE;
    if (fetch.background) this.backgroundBytes += arrived;
    else this.onDemandBytes += arrived;
    fetch.serveReaders();
    locks.acquire(fetch.first, fetch.end - fetch.first, (release) => this.#keepAbsent(fetch, release));
  }

  #failed(fetch: Fetch, errno: number): void {
    if (errno === Errno.EIO) this.#parts.bad.add(fetch.first, fetch.end, 'origin');
    // While the link closes, everything under way ends so.
    else if (errno !== Errno.ESHUTDOWN && errno !== this.#logged) {
      this.#logged = errno;
      const { length } = fetch.data;
      log.warning(
        `origin answers error ${errno} to a read of ${length} bytes at ${fetch.first * BLOCK_SIZE} (further ones are not logged)`,
      );
    }
    this.#forget(fetch);
    fetch.fail(errno);
    this.onSettled?.();
  }

  /** The end of a fetch. @param errno for the requests whose blocks are not local now */
  #settled(fetch: Fetch, errno: number): void {
    this.#forget(fetch);
    fetch.finish((first, end) => (this.#map.hasAll(first, end) ? 0 : errno));
    this.onSettled?.();
  }

  #forget(fetch: Fetch): void {
    this.#fetches.delete(fetch);
    this.#underWay.clear(fetch.first, fetch.end - fetch.first);
  }

  /**
   * The guest has written every block meanwhile: what the origin would have said matters no more, and the
   * link may close upon it.
   */
  #readLocally(fetch: Fetch): void {
    this.#parts.image.read(fetch.data, fetch.first * BLOCK_SIZE, {
      complete: (errno) => {
        this.#forget(fetch);
        if (errno === 0) fetch.finish(() => 0);
        else fetch.fail(errno);
        this.onSettled?.();
      },
    });
  }

  /** Under the lock: what is still absent, and is to be kept, goes to the image, run by run. */
  #keepAbsent(fetch: Fetch, release: () => void): void {
    const pieces = this.#piecesToKeep(fetch);
    const otherwise =
      fetch.unread.size > 0 ? Errno.EIO : this.#parts.space.shortage === null ? 0 : Errno.ENOSPC;
    const all = new Countdown(pieces.length, {
      complete: (errno) => {
        const outcome = errno !== 0 ? errno : otherwise;
        const end = () => {
          release();
          this.#settled(fetch, outcome);
        };
        if (outcome === 0) end();
        else this.#keepVital(fetch, new Set(), end);
      },
    });
    for (const { first, end, zero } of pieces) {
      if (zero) this.#punch(first, end, all);
      else this.#write(fetch, first, end, all);
    }
  }

  /**
   * Not all of it could be kept, for want of room mostly. The few blocks that guests' writes wait for, some
   * of which have joined only now, may be: each is tried by itself, once. @param tried those that have been
   */
  #keepVital(fetch: Fetch, tried: Set<number>, then: () => void): void {
    const blocks = this.#map
      .absentRuns(fetch.first, fetch.end)
      .flatMap(({ first, end }) => Array.from({ length: end - first }, (_, at) => first + at))
      .filter((block) => fetch.isVital(block) && !fetch.unread.has(block) && !tried.has(block));
    if (blocks.length === 0) {
      then();
      return;
    }
    const all = new Countdown(blocks.length, { complete: () => this.#keepVital(fetch, tried, then) });
    for (const block of blocks) {
      tried.add(block);
      this.#write(fetch, block, block + 1, all);
    }
  }

  #piecesToKeep(fetch: Fetch): Piece[] {
    return this.#runsToKeep(fetch).flatMap(({ first, end }) =>
      piecesOf(fetch.part(first, end)).map((piece) => ({
        first: first + piece.first,
        end: first + piece.end,
        zero: piece.zero,
      })),
    );
  }

  #runsToKeep(fetch: Fetch): readonly Readonly<BlockRange>[] {
    const absent = this.#map.absentRuns(fetch.first, fetch.end);
    const short = this.#parts.space.shortage !== null;
    if (fetch.unread.size === 0 && !short) return absent;
    const runs = new BlockRanges();
    for (const { first, end } of absent) {
      for (let block = first; block < end; block++)
        if (!fetch.unread.has(block) && (!short || fetch.isVital(block))) runs.add(block, block + 1);
    }
    return [...runs];
  }

  /** Zeros need no room. */
  #punch(first: number, end: number, done: Completion): void {
    const { image, space, bad } = this.#parts;
    image.punch(first * BLOCK_SIZE, bytesIn(first, end, this.#map.sizeBytes), {
      complete: (errno) => {
        const outcome = errno !== 0 ? errno : this.#map.mark(first, end - first);
        if (outcome === Errno.ENOSPC) space.refused();
        else if (outcome === Errno.EIO) bad.add(first, end, 'image');
        done.complete(outcome);
      },
    });
  }

  #write(fetch: Fetch, first: number, end: number, done: Completion): void {
    const { image, space, bad } = this.#parts;
    const data = fetch.part(first, end);
    image.write(data, first * BLOCK_SIZE, {
      complete: (errno) => {
        if (errno === 0) {
          space.used(data.length);
          done.complete(this.#map.mark(first, end - first));
          return;
        }
        if (errno === Errno.ENOSPC) space.refused();
        else if (end - first > 1) {
          // One bad sector: the others may do.
          const each = new Countdown(end - first, done);
          for (let block = first; block < end; block++) this.#write(fetch, block, block + 1, each);
          return;
        } else bad.add(first, end, 'image');
        done.complete(errno);
      },
    });
  }
}
