/**
 * The present map: one bit for each 4 KiB block of an image, set once the block's data is in the local image.
 *
 * Two losses have to be survived, and one file cannot serve both. After kill -9 the page cache is intact, so
 * an acknowledged write must be found in the map that the next process reads: the bit has to be written
 * before the acknowledgement. After a loss of power only what was synced is there, in any order, so a bit
 * must not reach the disk before its data did. Hence two files:
 *
 * - `present.live` is written at once with each mark, never synced, and counts only as long as the page cache
 *   is the one that it was written to (page-cache.ts), and no sync of the image has failed (lost-writes.ts).
 * - `present.map` is written by a checkpoint: take the bits as they are, sync the image, write those bits,
 *   sync the map. It holds after anything. A flush is a checkpoint; the background copy makes one now and
 *   then.
 *
 * Bits only ever go from 0 to 1, so a torn page of the map is a map of a moment in between, and as true as
 * its neighbours.
 *
 * The written map (written-map.ts) goes with it: made, opened, closed and removed together.
 */

import { type FileHandle, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { log } from '../../log/log.ts';
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, type BlockRange } from '../block-ranges.ts';
import type { Completion } from '../completion.ts';
import { syncDirectory } from '../directory.ts';
import { Bitmap, PAGE } from './bitmap.ts';
import { LostWrites, lostName, voidHeader } from './lost-writes.ts';
import {
  addPages,
  createMapFile,
  HEADER_LENGTH,
  type MapIdentity,
  mapHeader,
  writeBits,
} from './map-file.ts';
import { pageCacheOf } from './page-cache.ts';
import { blocksOf, durableName, liveName, PRESENT_MAP, readStoredMaps } from './stored-maps.ts';
import { UnsyncedBlocks } from './unsynced-blocks.ts';
import { WrittenMap } from './written-map.ts';

export type { MapIdentity };

/** What a map needs of an image. */
export interface MappedImage {
  /** Absolute. */
  readonly path: string;
  sync(done: Completion): void;
}

interface Parts {
  stateDir: string;
  identity: MapIdentity;
  image: MappedImage;
  bits: Bitmap;
  written: WrittenMap;
  durable: FileHandle;
  live: FileHandle;
}

export class PresentMap {
  /** Blocks of the image, the last one perhaps short. */
  readonly blocks: number;
  readonly sizeBytes: number;
  /** Which blocks a guest has written. */
  readonly written: WrittenMap;
  /** What of a guest's writes is lost, since the takeover. */
  lost: LostWrites | undefined;
  /**
   * Why nothing is kept any more, in one line: a sync has failed. The next process begins with what was
   * synced before.
   */
  failed: string | null = null;
  /** Told once, when that happens. */
  onFailed: (() => void) | null = null;
  /** Told after each mark that made blocks present: it may have been the last one. */
  onMarked: (() => void) | null = null;
  readonly #parts: Parts;
  readonly #bits: Bitmap;
  readonly #durable: FileHandle;
  readonly #live: FileHandle;
  readonly #unsynced: UnsyncedBlocks;
  /** Pages of the map with bits that the durable file lacks. */
  readonly #dirty: Set<number>;
  #checkpoint: Checkpoint | null = null;
  #nextCheckpoint: Completion[] = [];
  /** What cannot be written of the map, so that it is logged once. */
  #trouble: string | null = null;

  private constructor(parts: Parts, dirty = new Set<number>()) {
    this.#parts = parts;
    this.#bits = parts.bits;
    this.written = parts.written;
    this.blocks = parts.bits.length;
    this.sizeBytes = parts.identity.sizeBytes;
    this.#durable = parts.durable;
    this.#live = parts.live;
    this.#dirty = dirty;
    this.#unsynced = new UnsyncedBlocks(this.blocks);
  }

  /** Makes an empty map, durably; an older one in the directory is replaced. */
  static async create(stateDir: string, identity: MapIdentity, image: MappedImage): Promise<PresentMap> {
    const bits = new Bitmap(blocksOf(identity));
    await rm(join(stateDir, lostName), { force: true });
    const written = await WrittenMap.create(stateDir, identity, bits.length);
    const durable = await createMapFile(
      join(stateDir, durableName),
      mapHeader(PRESENT_MAP, identity, null),
      bits,
    );
    const live = await createMapFile(
      join(stateDir, liveName),
      mapHeader(PRESENT_MAP, identity, await pageCacheOf(image.path, stateDir)),
      bits,
    );
    await syncDirectory(stateDir);
    return new PresentMap({ stateDir, identity, image, bits, written, durable, live });
  }

  /**
   * Opens the map in a state directory.
   * @throws Error, one line, when there is none or it belongs to another disk, image or origin.
   */
  static async open(stateDir: string, identity: MapIdentity, image: MappedImage): Promise<PresentMap> {
    const cache = await pageCacheOf(image.path, stateDir);
    const { bits, dirty, written, unsynced, lost } = await readStoredMaps(
      stateDir,
      identity,
      image.path,
      cache,
    );
    // Begin a live file with all that is known: what the next kill -9 leaves must not depend on the durable
    // one.
    const livePath = join(stateDir, liveName);
    const live = await createMapFile(livePath, mapHeader(PRESENT_MAP, identity, cache), bits);
    const durable = await open(join(stateDir, durableName), 'r+');
    const map = new PresentMap({ stateDir, identity, image, bits, written, durable, live }, dirty);
    map.lost = lost;
    if (lost !== undefined && lost.line !== null) log.error(`${stateDir}: ${lost.line}`);
    map.#unsynced.addAll(unsynced);
    return map;
  }

  /** Removes the files of a map that is of no more use. */
  static async remove(stateDir: string): Promise<void> {
    for (const name of [durableName, liveName, lostName]) {
      await rm(join(stateDir, name), { force: true });
      await rm(join(stateDir, `${name}.new`), { force: true });
    }
    await WrittenMap.remove(stateDir);
  }

  /** Bytes of the image that are present. */
  get presentBytes(): number {
    const tail = this.sizeBytes % BLOCK_SIZE;
    const full = this.#bits.count * BLOCK_SIZE;
    return tail !== 0 && this.#bits.has(this.blocks - 1) ? full - BLOCK_SIZE + tail : full;
  }

  get complete(): boolean {
    return this.#bits.count === this.blocks;
  }

  has(block: number): boolean {
    return this.#bits.has(block);
  }

  /** Every block of [first, end) is present. */
  hasAll(first: number, end: number): boolean {
    return this.#bits.nextClear(first, end) === end;
  }

  /** First absent block in [from, end); `end` when there is none. */
  nextAbsent(from: number, end: number = this.blocks): number {
    return this.#bits.nextClear(from, end);
  }

  /** First present block in [from, end); `end` when there is none. */
  nextPresent(from: number, end: number = this.blocks): number {
    return this.#bits.nextSet(from, end);
  }

  /**
   * Marks blocks as present. Their data is in the image (its page cache) when this is called; when it
   * returns, the marks survive the end of this process.
   * @returns an NBD errno: when not 0 the blocks that were absent are so still, and nothing that rests on
   * them may be acknowledged.
   */
  mark(first: number, count: number): number {
    const absent = this.absentRuns(first, first + count);
    if (absent.length === 0) return 0;
    if (this.failed !== null) return Errno.EIO;
    this.#bits.set(first, count);
    try {
      writeBits(this.#live, this.#bits, first, count);
    } catch (error) {
      this.#report(`present map: blocks cannot be marked: ${(error as Error).message}`);
      // A later write to them must not be acknowledged on the strength of a mark that the next process does
      // not find.
      for (const run of absent) this.#bits.clear(run.first, run.end - run.first);
      return Errno.EIO;
    }
    addPages(this.#dirty, first, count);
    this.onMarked?.();
    return 0;
  }

  /** A guest's change to these blocks has been made: until the next sync it may be lost. */
  changed(first: number, count: number): void {
    this.#unsynced.add(first, count);
  }

  /** The runs of absent blocks within [first, end), in order. */
  absentRuns(first: number, end: number): BlockRange[] {
    const runs: BlockRange[] = [];
    for (let at = this.nextAbsent(first, end); at < end; ) {
      const runEnd = this.nextPresent(at, end);
      runs.push({ first: at, end: runEnd });
      at = this.nextAbsent(runEnd, end);
    }
    return runs;
  }

  /** Completes once everything written to the image and marked before this call survives loss of power. */
  flush(done: Completion): void {
    if (this.#checkpoint !== null) {
      // The running one took the bits before this call's writes, perhaps.
      this.#nextCheckpoint.push(done);
      return;
    }
    this.#startCheckpoint([done]);
  }

  async close(): Promise<void> {
    await this.#durable.close();
    await this.#live.close();
    await this.written.close();
  }

  #startCheckpoint(waiting: Completion[]): void {
    const pages = [...this.#dirty].map((page) => ({
      page,
      bytes: Buffer.from(this.#bits.bytes.subarray(page * PAGE, (page + 1) * PAGE)),
    }));
    this.#dirty.clear();
    const checkpoint: Checkpoint = { pages, waiting };
    this.#checkpoint = checkpoint;
    this.#unsynced.syncs();
    this.#parts.image.sync({
      complete: (errno) => {
        if (errno !== 0) void this.#fail().then(() => this.#endCheckpoint(errno));
        else {
          this.#unsynced.synced();
          void this.#writePages(checkpoint);
        }
      },
    });
  }

  /**
   * A sync of the image has failed: what no earlier one covered is void, for this process and the next,
   * before any client hears of it.
   */
  async #fail(): Promise<void> {
    if (this.failed !== null) return;
    const { stateDir, identity, image } = this.#parts;
    voidHeader(this.#live);
    this.failed = `a sync of ${image.path} failed: nothing is kept any more; mend its storage, then start the export again, which fetches anew what was not synced before`;
    const lost = new Bitmap(this.blocks);
    this.#unsynced.addTo(lost);
    const why = `a sync of ${image.path} failed at ${new Date().toISOString()}`;
    this.lost = await LostWrites.add(stateDir, lost, why);
    const livePath = join(stateDir, liveName);
    await this.lost.replace(livePath, this.#live, this.#bits.pages(), stateDir, identity);
    log.error(`${this.failed}${this.lost.line === null ? '' : `; ${this.lost.line}`}`);
    this.onFailed?.();
  }

  async #writePages(checkpoint: Checkpoint): Promise<void> {
    try {
      for (const { page, bytes } of checkpoint.pages) {
        const { bytesWritten } = await this.#durable.write(
          bytes,
          0,
          bytes.length,
          HEADER_LENGTH + page * PAGE,
        );
        if (bytesWritten !== bytes.length)
          throw new Error(`only ${bytesWritten} of ${bytes.length} bytes were written`);
      }
      if (checkpoint.pages.length > 0) await this.#durable.datasync();
      this.#trouble = null;
      this.#endCheckpoint(0);
    } catch (error) {
      this.#report(`present map cannot be saved: ${(error as Error).message}`);
      this.#endCheckpoint(Errno.EIO);
    }
  }

  /** Once, until it works again: every request meets it. */
  #report(trouble: string): void {
    if (trouble !== this.#trouble) log.error(`${trouble} (further ones are not logged)`);
    this.#trouble = trouble;
  }

  #endCheckpoint(errno: number): void {
    const checkpoint = this.#checkpoint!;
    this.#checkpoint = null;
    if (errno !== 0) for (const { page } of checkpoint.pages) this.#dirty.add(page);
    const next = this.#nextCheckpoint;
    this.#nextCheckpoint = [];
    if (next.length > 0) this.#startCheckpoint(next);
    for (const waiting of checkpoint.waiting) waiting.complete(errno);
  }
}

interface Checkpoint {
  pages: { page: number; bytes: Buffer }[];
  waiting: Completion[];
}
