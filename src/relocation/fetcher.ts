/**
 * Fetches absent blocks from the origin and keeps them. Used after the takeover only: before it nothing may be kept (rule 1).
 *
 * A block is fetched once at a time: who wants a block that is under way joins that fetch. When the bytes arrive, readers get
 * them at once; then, under the block lock, those blocks that are *still* absent are written to the image and marked (rules 4 and 6); then
 * those are told who wait for the block to be local. If the local image refuses (no room, a bad sector), readers have their data
 * all the same and the blocks stay absent.
 */

import { log } from '../log/log.ts';
import { Errno } from '../nbd/constants.ts';
import { Bitmap } from '../store/bitmap.ts';
import type { Completion } from '../store/completion.ts';
import type { Image } from '../store/image.ts';
import { BLOCK_SIZE, type PresentMap } from '../store/present-map.ts';
import type { BlockLocks } from './block-locks.ts';
import { Countdown } from './countdown.ts';
import type { OriginLink } from './origin-link.ts';

/** Largest fetch, blocks: 1 MiB. */
export const MAX_FETCH = 256;

/** Wants the bytes of a stretch of the disk as soon as they arrive. */
export interface Reader extends Completion {
  /** `data` is what the disk has at `offset`; called before `complete(0)`. */
  take(data: Buffer, offset: number): void;
}

/** One reader's share of a fetch: only blocks that were absent when he asked. The others may hold a newer write by now. */
interface Share {
  reader: Reader;
  first: number;
  end: number;
}

class Fetch {
  readonly first: number;
  readonly end: number;
  readonly data: Buffer;
  readonly background: boolean;
  readonly shares: Share[] = [];
  /** Those who wait for the blocks to be local. */
  readonly keepers: Completion[] = [];

  constructor(first: number, end: number, bytes: number, background: boolean) {
    this.first = first;
    this.end = end;
    this.data = Buffer.allocUnsafeSlow(bytes);
    this.background = background;
  }

  /** Gives the readers their shares; more may join afterwards. */
  serveReaders(): void {
    for (const { reader, first, end } of this.shares.splice(0)) {
      reader.take(
        this.data.subarray((first - this.first) * BLOCK_SIZE, (end - this.first) * BLOCK_SIZE),
        first * BLOCK_SIZE,
      );
      reader.complete(0);
    }
  }
}

export interface FetcherOptions {
  link: OriginLink;
  image: Image;
  map: PresentMap;
  locks: BlockLocks;
}

export class Fetcher {
  /** Bytes that arrived because a client asked, and for the background copy. */
  onDemandBytes = 0;
  backgroundBytes = 0;
  /** Told after each fetch, kept or failed. */
  onSettled: (() => void) | null = null;
  readonly #link: OriginLink;
  readonly #image: Image;
  readonly #map: PresentMap;
  readonly #locks: BlockLocks;
  readonly #underWay: Bitmap;
  readonly #fetches = new Set<Fetch>();

  constructor(options: FetcherOptions) {
    this.#link = options.link;
    this.#image = options.image;
    this.#map = options.map;
    this.#locks = options.locks;
    this.#underWay = new Bitmap(options.map.blocks);
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
    const unsent: Fetch[] = [];
    let pieces = 0;
    for (let block = first; block < end; pieces++) {
      const fetch = this.#underWay.has(block) ? this.#find(block) : this.#addOnDemand(block, end, unsent);
      const pieceEnd = Math.min(end, fetch.end);
      fetch.shares.push({ reader, first: block, end: pieceEnd });
      block = pieceEnd;
    }
    for (const fetch of unsent) this.#send(fetch);
    return pieces;
  }

  /**
   * Makes blocks from `first` on local, for a client: all of them absent now, up to `end` or the end of one fetch.
   * @returns the block behind those; `done` is for them, and comes later.
   */
  keep(first: number, end: number, done: Completion): number {
    const unsent: Fetch[] = [];
    const fetch = this.#underWay.has(first) ? this.#find(first) : this.#addOnDemand(first, end, unsent);
    fetch.keepers.push(done);
    for (const each of unsent) this.#send(each);
    return Math.min(fetch.end, end);
  }

  /** Fetches [first, end), absent and not under way, at most MAX_FETCH blocks, for the background copy. */
  background(first: number, end: number, done: Completion): void {
    const fetch = this.#add(first, end, true);
    fetch.keepers.push(done);
    this.#send(fetch);
  }

  #addOnDemand(first: number, end: number, unsent: Fetch[]): Fetch {
    const fetch = this.#add(first, Math.min(this.endOfIdle(first, end), first + MAX_FETCH), false);
    unsent.push(fetch);
    return fetch;
  }

  #send(fetch: Fetch): void {
    this.#link.read(fetch.data, fetch.first * BLOCK_SIZE, {
      complete: (errno) => this.#arrived(fetch, errno),
    });
  }

  #add(first: number, end: number, background: boolean): Fetch {
    const bytes = Math.min(end * BLOCK_SIZE, this.#map.sizeBytes) - first * BLOCK_SIZE;
    const fetch = new Fetch(first, end, bytes, background);
    this.#underWay.set(first, end - first);
    this.#fetches.add(fetch);
    return fetch;
  }

  #find(block: number): Fetch {
    for (const fetch of this.#fetches) if (fetch.first <= block && block < fetch.end) return fetch;
    throw new Error(`block ${block} is under way, but in no fetch`);
  }

  #arrived(fetch: Fetch, errno: number): void {
    if (errno !== 0) {
      if (this.#map.hasAll(fetch.first, fetch.end)) {
        this.#readLocally(fetch);
        return;
      }
      // While the link closes, everything under way ends so.
      if (errno !== Errno.ESHUTDOWN) {
        const { length } = fetch.data;
        log.warning(
          `origin answers error ${errno} to a read of ${length} bytes at ${fetch.first * BLOCK_SIZE}`,
        );
      }
      this.#settled(fetch, errno);
      return;
    }
    if (fetch.background) this.backgroundBytes += fetch.data.length;
    else this.onDemandBytes += fetch.data.length;
    fetch.serveReaders();
    this.#locks.acquire(fetch.first, fetch.end - fetch.first, (release) => this.#keepAbsent(fetch, release));
  }

  /** The end of a fetch; readers that have not been served get the error. */
  #settled(fetch: Fetch, errno: number): void {
    this.#fetches.delete(fetch);
    this.#underWay.clear(fetch.first, fetch.end - fetch.first);
    for (const { reader } of fetch.shares) reader.complete(errno);
    for (const keeper of fetch.keepers) keeper.complete(errno);
    this.onSettled?.();
  }

  /** The guest has written every block meanwhile: what the origin would have said matters no more, and the link may close upon it. */
  #readLocally(fetch: Fetch): void {
    this.#image.read(fetch.data, fetch.first * BLOCK_SIZE, {
      complete: (errno) => {
        if (errno === 0) fetch.serveReaders();
        this.#settled(fetch, errno);
      },
    });
  }

  /** Under the lock: what is still absent goes to the image, run by run. */
  #keepAbsent(fetch: Fetch, release: () => void): void {
    const runs = this.#map.absentRuns(fetch.first, fetch.end);
    const all = new Countdown(runs.length, {
      complete: (errno) => {
        release();
        // Some may have joined while the data was being written.
        fetch.serveReaders();
        this.#settled(fetch, errno);
      },
    });
    for (const { first, end } of runs) {
      const at = (first - fetch.first) * BLOCK_SIZE;
      this.#image.write(fetch.data.subarray(at, at + (end - first) * BLOCK_SIZE), first * BLOCK_SIZE, {
        complete: (errno) => all.complete(errno !== 0 ? errno : this.#map.mark(first, end - first)),
      });
    }
  }
}
