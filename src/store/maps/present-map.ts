/**
 * The present map: one bit for each 4 KiB block of an image, set once the block's data is in the local image.
 *
 * Two losses have to be survived, and one file cannot serve both. After kill -9 the page cache is intact, so
 * an acknowledged write must be found in the map that the next process reads: the bit has to be written
 * before the acknowledgement. After a loss of power only what was synced is there, in any order, so a bit
 * must not reach the disk before its data did. Hence two files:
 *
 * - `present.live` is written at once with each mark, never synced, and counts only within the boot that
 *   wrote it.
 * - `present.map` is written by a checkpoint: take the bits as they are, sync the image, write those bits,
 *   sync the map. It holds after anything. A flush is a checkpoint; the background copy makes one now and
 *   then.
 *
 * Bits only ever go from 0 to 1, so a torn page of the map is a map of a moment in between, and as true as
 * its neighbours.
 *
 * The written map (written-map.ts) goes with it: made, opened, closed and removed together.
 */

import { writeSync } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { log } from '../../log/log.ts';
import { Errno } from '../../nbd/constants.ts';
import { bootId } from '../../system/boot-id.ts';
import type { Completion } from '../completion.ts';
import { syncDirectory } from '../directory.ts';
import { Bitmap } from './bitmap.ts';
import {
  checkIdentity,
  createMapFile,
  HEADER_LENGTH,
  type MapIdentity,
  mapHeader,
  readMapFile,
} from './map-file.ts';
import { WrittenMap } from './written-map.ts';

export type { MapIdentity };

/** Bytes of a block. */
export const BLOCK_SIZE = 4096;

/** What a checkpoint needs of an image. */
export interface Syncable {
  sync(done: Completion): void;
}

const PAGE = 4096;
const FORMAT = 'xnbd present map 1';
const durableName = 'present.map';
const liveName = 'present.live';

export class PresentMap {
  /** Blocks of the image, the last one perhaps short. */
  readonly blocks: number;
  readonly sizeBytes: number;
  /** Which blocks a guest has written. */
  readonly written: WrittenMap;
  readonly #bits: Bitmap;
  readonly #durable: FileHandle;
  readonly #live: FileHandle;
  readonly #image: Syncable;
  /** Pages of the map with bits that the durable file lacks. */
  readonly #dirty = new Set<number>();
  #checkpoint: Checkpoint | null = null;
  #nextCheckpoint: Completion[] = [];

  private constructor(
    bits: Bitmap,
    written: WrittenMap,
    sizeBytes: number,
    durable: FileHandle,
    live: FileHandle,
    image: Syncable,
  ) {
    this.#bits = bits;
    this.written = written;
    this.blocks = bits.length;
    this.sizeBytes = sizeBytes;
    this.#durable = durable;
    this.#live = live;
    this.#image = image;
  }

  /** Makes an empty map, durably; an older one in the directory is replaced. */
  static async create(stateDir: string, identity: MapIdentity, image: Syncable): Promise<PresentMap> {
    const bits = new Bitmap(Math.ceil(identity.sizeBytes / BLOCK_SIZE));
    const written = await WrittenMap.create(stateDir, identity, bits.length);
    const durable = await createMapFile(
      join(stateDir, durableName),
      mapHeader(FORMAT, identity, null),
      bits.bytes,
    );
    const live = await createMapFile(
      join(stateDir, liveName),
      mapHeader(FORMAT, identity, await bootId()),
      bits.bytes,
    );
    await syncDirectory(stateDir);
    return new PresentMap(bits, written, identity.sizeBytes, durable, live, image);
  }

  /**
   * Opens the map in a state directory.
   * @throws Error, one line, when there is none or it belongs to another disk, image or origin.
   */
  static async open(stateDir: string, identity: MapIdentity, image: Syncable): Promise<PresentMap> {
    const bits = new Bitmap(Math.ceil(identity.sizeBytes / BLOCK_SIZE));
    const durablePath = join(stateDir, durableName);
    const livePath = join(stateDir, liveName);
    const stored = await readMapFile(durablePath, FORMAT);
    checkIdentity(durablePath, identity, stored.identity);
    bits.load(stored.bits);
    const durableCount = bits.count;
    const live = await readMapFile(livePath, FORMAT).catch(() => undefined);
    const boot = await bootId();
    if (live?.boot === boot) {
      checkIdentity(livePath, identity, live.identity);
      bits.load(live.bits);
    }
    const written = await WrittenMap.open(stateDir, identity, bits);
    // Begin a live file of this boot with all that is known: what the next kill -9 leaves must not depend on
    // the durable one.
    const liveFile = await createMapFile(livePath, mapHeader(FORMAT, identity, boot), bits.bytes);
    const durableFile = await open(durablePath, 'r+');
    const map = new PresentMap(bits, written, identity.sizeBytes, durableFile, liveFile, image);
    if (bits.count !== durableCount) {
      for (let page = 0; page * PAGE < bits.bytes.length; page++) map.#dirty.add(page);
    }
    return map;
  }

  /** Removes the files of a map that is of no more use. */
  static async remove(stateDir: string): Promise<void> {
    for (const name of [durableName, liveName]) {
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
    const from = first >>> 3;
    const to = (first + count - 1) >>> 3;
    const absent = this.absentRuns(first, first + count);
    if (absent.length === 0) return 0;
    this.#bits.set(first, count);
    try {
      for (let at = from; at <= to; )
        at += writeSync(this.#live.fd, this.#bits.bytes, at, to + 1 - at, HEADER_LENGTH + at);
    } catch (error) {
      log.error(
        `present map: blocks ${first} to ${first + count - 1} cannot be marked: ${(error as Error).message}`,
      );
      // A later write to them must not be acknowledged on the strength of a mark that the next process does
      // not find.
      for (const run of absent) this.#bits.clear(run.first, run.end - run.first);
      return Errno.EIO;
    }
    for (let page = Math.floor(from / PAGE); page <= Math.floor(to / PAGE); page++) this.#dirty.add(page);
    return 0;
  }

  /** The runs of absent blocks within [first, end), in order. */
  absentRuns(first: number, end: number): { first: number; end: number }[] {
    const runs: { first: number; end: number }[] = [];
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
    this.#image.sync({
      complete: (errno) => {
        if (errno !== 0) this.#endCheckpoint(errno);
        else void this.#writePages(checkpoint);
      },
    });
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
      this.#endCheckpoint(0);
    } catch (error) {
      log.error(`present map cannot be saved: ${(error as Error).message}`);
      this.#endCheckpoint(Errno.EIO);
    }
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
