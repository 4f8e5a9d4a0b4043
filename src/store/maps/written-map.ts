/**
 * The written map: one bit for each block of an image, set before a guest's write, trim or zeroing since the
 * takeover touches the block. What it lacks should be at the origin as it is here: that is what a self-check
 * compares (docs/safety.md).
 *
 * A bit too many means a block that is not compared. A bit too few is a false alarm, so a bit is set before
 * the block is changed, and as with the present map (present-map.ts) two files stand for the two losses:
 *
 * - `written.live` is written at once with each mark, never synced, and counts only with the page cache that
 *   it was written to (page-cache.ts): that of the state directory's storage, whatever became of the image's.
 *   After kill -9 it is exact.
 * - `written.map` is written and synced some seconds later. After a loss of power it says what it can: blocks
 *   that it has were written; of those that it lacks the latest may have been, too, and their data may have
 *   reached the disk all the same.
 *
 * So a process that opens the map with another page cache (or after a `written.live` that could not be kept)
 * writes down which blocks were present then, `written.doubt`: if such a block is equal to the origin's all
 * is well; if it is not, it cannot be said whether a write or a fault is the cause.
 *
 * A guest is not to fail because of this map. If a mark cannot be written, `written.live` is removed, and
 * what was present then is in doubt.
 */
import { rmSync } from 'node:fs';
import { type FileHandle, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { log } from '../../log/log.ts';
import { syncDirectory } from '../directory.ts';
import { Bitmap } from './bitmap.ts';
import {
  addPages,
  checkIdentity,
  createMapFile,
  loadBits,
  type MapIdentity,
  mapHeader,
  openMapFile,
  writeBits,
  writePage,
} from './map-file.ts';
import { isTheSame, pageCacheOf } from './page-cache.ts';

const WRITTEN_MAP = 'written map';
const durableName = 'written.map';
const liveName = 'written.live';
const doubtName = 'written.doubt';
/** How old the durable file may be. */
const SAVE_MS = 5000;

export class WrittenMap {
  readonly #bits: Bitmap;
  readonly #doubt: Bitmap | null;
  readonly #durable: FileHandle;
  readonly #live: FileHandle;
  readonly #livePath: string;
  /** `written.live` is what it should be. */
  #exact = true;
  /** Pages with bits that the durable file lacks. */
  readonly #dirty = new Set<number>();
  #timer: NodeJS.Timeout | null = null;
  #saving: Promise<void> = Promise.resolve();
  /** Why it cannot be saved, so that it is logged once. */
  #trouble: string | null = null;

  private constructor(
    bits: Bitmap,
    doubt: Bitmap | null,
    durable: FileHandle,
    live: FileHandle,
    livePath: string,
  ) {
    this.#bits = bits;
    this.#doubt = doubt;
    this.#durable = durable;
    this.#live = live;
    this.#livePath = livePath;
  }

  /** Makes an empty map; an older one in the directory is replaced. The caller syncs the directory. */
  static async create(stateDir: string, identity: MapIdentity, blocks: number): Promise<WrittenMap> {
    await WrittenMap.remove(stateDir);
    return await WrittenMap.#begin(stateDir, identity, new Bitmap(blocks), null);
  }

  /**
   * Opens the map in a state directory; one that is missing, or another disk's, was not kept.
   * @param present the blocks that are present now.
   * @param image path of the image
   */
  static async open(
    stateDir: string,
    identity: MapIdentity,
    present: Bitmap,
    image: string,
  ): Promise<WrittenMap> {
    const bits = new Bitmap(present.length);
    const cache = await pageCacheOf(null, stateDir);
    /** @returns false where there is none that counts */
    const load = async (name: string, into: Bitmap, live = false): Promise<boolean> => {
      const stored = await openMapFile(join(stateDir, name), WRITTEN_MAP).catch(() => undefined);
      if (stored === undefined) return false;
      try {
        checkIdentity(stored, identity, image);
        if (live && !isTheSame(stored.fields['cache'], cache, false)) return false;
        await loadBits(stored, into);
        return true;
      } finally {
        await stored.file.close();
      }
    };
    await load(durableName, bits);
    const earlier = new Bitmap(present.length);
    let doubt = (await load(doubtName, earlier)) ? earlier : null;
    if (!(await load(liveName, bits, true))) {
      doubt ??= earlier;
      doubt.add(present);
      const file = await createMapFile(
        join(stateDir, doubtName),
        mapHeader(WRITTEN_MAP, identity, null),
        doubt,
      );
      await file.close();
      // Before there is a live file that counts, which vouches for the others.
      await syncDirectory(stateDir);
    }
    return await WrittenMap.#begin(stateDir, identity, bits, doubt);
  }

  /** Removes the files of a map that is of no more use. */
  static async remove(stateDir: string): Promise<void> {
    for (const name of [liveName, durableName, doubtName]) {
      await rm(join(stateDir, name), { force: true });
      await rm(join(stateDir, `${name}.new`), { force: true });
    }
  }

  /** Blocks that were written, at least. */
  get count(): number {
    return this.#bits.count;
  }

  /** First block in [from, end) that was not written; `end` when there is none. */
  nextUnwritten(from: number, end: number): number {
    return this.#bits.nextClear(from, end);
  }

  /** First block in [from, end) that was written; `end` when there is none. */
  nextWritten(from: number, end: number): number {
    return this.#bits.nextSet(from, end);
  }

  /** Those of some blocks that were written. */
  among(blocks: Bitmap): Bitmap {
    return blocks.common(this.#bits);
  }

  /** A block that the map lacks may have been written all the same, before a loss of power. */
  isInDoubt(block: number): boolean {
    return this.#doubt?.has(block) ?? false;
  }

  /**
   * A guest is about to change these blocks. When this returns, the marks survive the end of this process.
   */
  mark(first: number, count: number): void {
    if (this.#bits.nextClear(first, first + count) === first + count) return;
    this.#bits.set(first, count);
    addPages(this.#dirty, first, count);
    this.#timer ??= setTimeout(() => void this.save(), SAVE_MS).unref();
    if (!this.#exact) return;
    try {
      writeBits(this.#live, this.#bits, first, count);
    } catch (error) {
      this.#distrustLive(error as Error);
    }
  }

  /** Brings the durable file up to now. */
  save(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#saving = this.#saving.then(() => this.#save());
    return this.#saving;
  }

  async close(): Promise<void> {
    await this.save();
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#durable.close();
    await this.#live.close();
  }

  async #save(): Promise<void> {
    const pages = [...this.#dirty];
    if (pages.length === 0) return;
    this.#dirty.clear();
    try {
      for (const page of pages) await writePage(this.#durable, this.#bits, page);
      await this.#durable.datasync();
      this.#trouble = null;
    } catch (error) {
      const trouble = (error as Error).message;
      if (trouble !== this.#trouble) log.warning(`written map cannot be saved: ${trouble}; trying again`);
      this.#trouble = trouble;
      for (const page of pages) this.#dirty.add(page);
      this.#timer ??= setTimeout(() => void this.save(), SAVE_MS).unref();
    }
  }

  #distrustLive(error: Error): void {
    this.#exact = false;
    log.error(
      `written map: marks cannot be written: ${error.message}; after a restart a self-check cannot tell writes from faults`,
    );
    try {
      rmSync(this.#livePath);
    } catch (failure) {
      log.error(
        `written map: ${this.#livePath} cannot be removed either (${(failure as Error).message}): remove it`,
      );
    }
  }

  /**
   * Makes the files that a running map has: a live one of this boot with all that is known, and the durable
   * one.
   */
  static async #begin(
    stateDir: string,
    identity: MapIdentity,
    bits: Bitmap,
    doubt: Bitmap | null,
  ): Promise<WrittenMap> {
    const livePath = join(stateDir, liveName);
    const cache = await pageCacheOf(null, stateDir);
    const live = await createMapFile(livePath, mapHeader(WRITTEN_MAP, identity, cache), bits);
    const durable = await createMapFile(
      join(stateDir, durableName),
      mapHeader(WRITTEN_MAP, identity, null),
      bits,
    );
    return new WrittenMap(bits, doubt, durable, live, livePath);
  }
}
