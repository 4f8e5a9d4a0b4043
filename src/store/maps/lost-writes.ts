/**
 * The mark that a sync of the image failed, and which of a guest's writes went with it: `lost.map`.
 *
 * The kernel reports a page that it could not write once, forgets it, and the next sync succeeds, in this
 * process and in the next. So what depended on a failed sync has to be void from then on, whatever becomes of
 * this process: only what an earlier sync covered (`present.map`) counts, all else is fetched again, and what
 * a guest had written there is lost, and named.
 *
 * The storage that failed may be that of the state directory, too: full, or gone. So the mark is not
 * something that has to be written, but something that is taken away. `present.live`, without which nothing
 * but `present.map` is believed, first loses its header, in the page cache, before any client hears of the
 * failure; then it becomes `lost.map`, by a rename, which takes no room: its own blocks take the bits of what
 * is lost. If the bits do not get there, all that is known is that something is lost. If even the rename does
 * not, the file system has failed and must be mounted anew, which takes the trust away as well
 * (page-cache.ts).
 *
 * (What is not covered: a process that is killed between the failure of the system call and the first of
 * these steps.)
 *
 * `lost.map` stays with the map, and its line is in the status, until the disk is complete; the log has it,
 * too.
 */
import { writeSync } from 'node:fs';
import { type FileHandle, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { log } from '../../log/log.ts';
import { BLOCK_SIZE } from '../block-ranges.ts';
import { syncDirectory } from '../directory.ts';
import { Bitmap } from './bitmap.ts';
import {
  createMapFile,
  HEADER_LENGTH,
  loadBits,
  type MapIdentity,
  mapHeader,
  openMapFile,
  writePage,
} from './map-file.ts';

export const lostName = 'lost.map';
const KIND = 'map of lost writes';

export class LostWrites {
  readonly #bits: Bitmap;
  readonly #why: string;
  /** Of some of it the place is not known. */
  readonly #incomplete: boolean;

  constructor(bits: Bitmap, why: string, incomplete = false) {
    this.#bits = bits;
    this.#why = why;
    this.#incomplete = incomplete;
  }

  /** Of blocks that a guest had written. */
  get bytes(): number {
    return this.#bits.count * BLOCK_SIZE;
  }

  has(block: number): boolean {
    return this.#bits.has(block);
  }

  /** What is lost and why, in one line; null when nothing of a guest's is. */
  get line(): string | null {
    const { count } = this.#bits;
    if (count === 0 && !this.#incomplete) return null;
    const where =
      count === 0
        ? 'writes of the guest, nobody knows where,'
        : `${this.#incomplete ? 'at least ' : ''}${count * BLOCK_SIZE} bytes that the guest wrote, first at ${this.#bits.nextSet(0) * BLOCK_SIZE},`;
    return `${where} are lost (${this.#why}): what the origin has is there instead; check the guest's file systems`;
  }

  /** What an earlier process left; undefined when nothing was lost. */
  static async read(stateDir: string, blocks: number): Promise<LostWrites | undefined> {
    const bits = new Bitmap(blocks);
    try {
      const stored = await openMapFile(join(stateDir, lostName), KIND);
      try {
        await loadBits(stored, bits);
      } finally {
        await stored.file.close();
      }
      return new LostWrites(bits, String(stored.fields['why']), stored.fields['incomplete'] === true);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      return new LostWrites(bits, 'a sync of the image failed', true);
    }
  }

  /** What was lost before goes with it. */
  static async add(stateDir: string, bits: Bitmap, why: string): Promise<LostWrites> {
    const before = await LostWrites.read(stateDir, bits.length);
    if (before === undefined) return new LostWrites(bits, why);
    bits.add(before.#bits);
    return new LostWrites(bits, why, before.#incomplete);
  }

  /** Makes `lost.map`, durably. @throws when there is no room, or no storage, for it */
  async save(stateDir: string, identity: MapIdentity): Promise<void> {
    const file = await createMapFile(join(stateDir, lostName), this.#header(identity), this.#bits);
    await file.close();
    await syncDirectory(stateDir);
  }

  /**
   * Makes `lost.map` of a live file, whose header is void already. Does what can be done, and never throws.
   * @param pages in which the live file has bits
   */
  async replace(
    livePath: string,
    live: FileHandle,
    pages: Iterable<number>,
    stateDir: string,
    identity: MapIdentity,
  ): Promise<void> {
    try {
      for (const page of pages) await writePage(live, this.#bits, page);
      for (const page of this.#bits.pages()) await writePage(live, this.#bits, page);
      const head = this.#header(identity);
      await live.write(head, 0, head.length, 0);
    } catch (error) {
      log.error(`${livePath}: it cannot be noted which writes are lost: ${(error as Error).message}`);
    }
    try {
      await rename(livePath, join(stateDir, lostName));
      await syncDirectory(stateDir);
      await live.datasync();
    } catch (error) {
      log.error(`${stateDir}: ${(error as Error).message}; if ${livePath} is still there, remove it`);
    }
  }

  #header(identity: MapIdentity): Buffer {
    return mapHeader(KIND, identity, null, { why: this.#why, incomplete: this.#incomplete });
  }
}

/**
 * From now on no process believes a live file: at once, for every process, however full or broken the disk
 * is.
 */
export function voidHeader(live: FileHandle): void {
  try {
    writeSync(live.fd, Buffer.alloc(HEADER_LENGTH), 0, HEADER_LENGTH, 0);
  } catch {
    // It goes by its name, then.
  }
}
