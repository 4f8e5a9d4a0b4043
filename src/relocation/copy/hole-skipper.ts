/**
 * Holes of the origin are holes here: what is still absent there is punched (the image may have held
 * something) and marked as present, without asking the origin for its zeros.
 *
 * A hole may be as large as the disk. It is dealt with a piece at a time, because the guest's writes there
 * wait for the lock, and because everything else that the disk has to do waits for the thread pool.
 */
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, BlockRanges, blocksIn, bytesIn } from '../../store/block-ranges.ts';
import { Countdown } from '../../store/countdown.ts';
import type { Image } from '../../store/image/image.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { BadBlocks } from '../fetch/bad-blocks.ts';
import type { BlockLocks } from '../fetch/block-locks.ts';
import type { ImageSpace } from '../fetch/image-space.ts';

/** Blocks of a piece: 128 MiB. */
const PIECE = 32 * 1024;
const AT_ONCE = 4;

export interface HoleSkipperOptions {
  image: Image;
  map: PresentMap;
  locks: BlockLocks;
  space: ImageSpace;
  bad: BadBlocks;
  /** A piece is done, or could not be: what is wrong then. */
  done: (error: string | null) => void;
}

export class HoleSkipper {
  /** Bytes that were never fetched. */
  skippedBytes = 0;
  readonly #parts: HoleSkipperOptions;
  readonly #holes = new BlockRanges();
  #underWay = 0;
  /** Blocks of the pieces that are under way. */
  #skipping = 0;

  constructor(parts: HoleSkipperOptions) {
    this.#parts = parts;
  }

  get idle(): boolean {
    return this.#underWay === 0 && this.#holes.length === 0;
  }

  /** Stretches that have not been begun. */
  get waiting(): number {
    return this.#holes.length;
  }

  /** Blocks of what has not been dealt with. */
  get waitingBlocks(): number {
    return blocksIn(this.#holes) + this.#skipping;
  }

  add(first: number, end: number): void {
    this.#holes.add(first, end);
    this.#proceed();
  }

  /** What is under way still ends. */
  stop(): void {
    this.#holes.clear();
  }

  #proceed(): void {
    while (this.#underWay < AT_ONCE) {
      const piece = this.#holes.take(PIECE);
      if (piece === undefined) return;
      this.#skip(piece.first, piece.end);
    }
  }

  #skip(first: number, end: number): void {
    const { locks, map, image, space, bad, done } = this.#parts;
    this.#underWay += 1;
    this.#skipping += end - first;
    locks.acquire(first, end - first, (release) => {
      const runs = map.absentRuns(first, end);
      const all = new Countdown(runs.length, {
        complete: (errno) => {
          release();
          this.#underWay -= 1;
          this.#skipping -= end - first;
          this.#proceed();
          const told = errno === 0 || errno === Errno.ENOSPC || errno === Errno.EIO;
          done(
            told ? null : `holes at ${first * BLOCK_SIZE} cannot be punched in ${image.path}: error ${errno}`,
          );
        },
      });
      for (const run of runs) {
        const length = bytesIn(run.first, run.end, map.sizeBytes);
        image.punch(run.first * BLOCK_SIZE, length, {
          complete: (errno) => {
            const outcome = errno !== 0 ? errno : map.mark(run.first, run.end - run.first);
            if (outcome === 0) this.skippedBytes += length;
            else if (outcome === Errno.ENOSPC) space.refused();
            else if (outcome === Errno.EIO) bad.add(run.first, run.end, 'image');
            all.complete(outcome);
          },
        });
      }
    });
  }
}
