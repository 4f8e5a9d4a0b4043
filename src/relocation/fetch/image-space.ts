/**
 * Whether the image's file system has space for what is copied.
 *
 * The guest's own writes come first: the copy stops, and what a client reads is passed on without being kept,
 * before the last bytes are used up (`reserve`), and at the latest when the file system says ENOSPC. Then the
 * free space is looked at now and then, and the copy goes on when there is some; where the file system does
 * not tell the truth (a quota, a thin volume, a block device) one try a minute does.
 */
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { log } from '../../log/log.ts';

const LOOK_MS = 3000;
const TRY_MS = 60_000;
const MOST_RESERVE = 64 * 1024 * 1024;
/** The reserve is at most this part of the file system. */
const RESERVE_PART = 1 / 16;

export interface ImageSpaceOptions {
  /** Path of the image; null for a block device, of which no file system tells. */
  image: string | null;
  /** Bytes that are still to come. */
  missing: () => number;
  /** Space has run short, or is there again. */
  onChange: () => void;
}

export class ImageSpace {
  /** Why nothing is copied, in one line; null while there is space. */
  shortage: string | null = null;
  readonly #options: ImageSpaceOptions;
  readonly #timer: NodeJS.Timeout;
  /** As of the last look, less what was written since. */
  #free = Number.POSITIVE_INFINITY;
  #reserve = 0;
  /** What was free, and when, as the file system said ENOSPC. */
  #refused: { free: number; at: number } | null = null;
  #looking = false;
  #stopped = false;

  constructor(options: ImageSpaceOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.#look(), LOOK_MS).unref();
    void this.#look();
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
  }

  /** The image has grown by so many bytes, perhaps. */
  used(bytes: number): void {
    this.#free -= bytes;
    if (this.#free < this.#reserve && this.shortage === null) void this.#look();
  }

  /** The image has said ENOSPC. */
  refused(): void {
    if (this.#stopped) return;
    this.#refused = { free: this.#free, at: performance.now() };
    this.#setShort();
    void this.#look(true);
  }

  async #look(justRefused = false): Promise<void> {
    const { image } = this.#options;
    if (this.#looking) return;
    this.#looking = true;
    if (image !== null) {
      try {
        const { bavail, blocks, bsize } = await statfs(image);
        this.#free = bavail * bsize;
        this.#reserve = Math.min(MOST_RESERVE, blocks * bsize * RESERVE_PART);
      } catch {
        // Then ENOSPC alone tells.
        this.#free = Number.POSITIVE_INFINITY;
      }
    }
    this.#looking = false;
    if (this.#stopped) return;
    if (justRefused && this.#refused !== null) this.#refused.free = this.#free;
    this.#judge();
  }

  #judge(): void {
    if (this.#refused !== null) {
      const { free, at } = this.#refused;
      const grown = Number.isFinite(free) && this.#free > free + this.#reserve;
      if (!grown && performance.now() - at < TRY_MS) return;
      this.#refused = null;
    }
    // A little more than the reserve, so that the copy does not stop and go. And where all that is missing
    // fits, no reserve is needed.
    const wanted = Math.min(this.#reserve * (this.shortage === null ? 1 : 1.25), this.#options.missing());
    if (this.#free >= wanted) this.#setEnough();
    else this.#setShort();
  }

  #setShort(): void {
    if (this.shortage !== null) return;
    const { image, missing, onChange } = this.#options;
    const where = image === null ? 'on its block device' : `in ${dirname(image)}`;
    this.shortage = `no room ${where} for the ${missing()} bytes that are still to come`;
    log.warning(`the copy pauses: ${this.shortage}; it goes on when there is room, the guest works on`, {
      id: 'no-room',
    });
    onChange();
  }

  #setEnough(): void {
    if (this.shortage === null) return;
    this.shortage = null;
    log.info('there is room again: the copy goes on', { id: 'room-again' });
    this.#options.onChange();
  }
}
