/**
 * Present blocks that the image does not give back any more: they were written once, and reading them fails
 * now.
 *
 * The error of such a read is the client's. But as long as there is an origin it may have the only copy of
 * what they held, so the disk does not become complete over it: while there are any, the origin is kept. Each
 * read that fails makes its blocks suspects; those are read one by one, and what fails again is remembered,
 * shown, and looked at anew every now and then: a block is well again when it has been written, or the disk
 * under it has been repaired.
 */
import type { BadRange } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import { BLOCK_SIZE, BlockRanges, blockAt, blockBehind, bytesIn } from '../../store/block-ranges.ts';
import type { Image } from '../../store/image/image.ts';

const LOOK_AGAIN_MS = 10_000;
/** Remembered and shown, blocks; a disk that is broken all over is broken enough. */
const MOST = 1024;

export interface UnreadableBlocksOptions {
  image: Image;
  /** There are more, or fewer. */
  onChange: () => void;
}

export class UnreadableBlocks {
  readonly #options: UnreadableBlocksOptions;
  readonly #blocks = new Set<number>();
  readonly #suspects = new Set<number>();
  readonly #timer: NodeJS.Timeout;
  /** The block that is being looked at; -1: none. */
  #looking = -1;
  #said = false;
  #stopped = false;

  constructor(options: UnreadableBlocksOptions) {
    this.#options = options;
    options.image.onReadError = (position, length) => this.#suspect(position, length);
    this.#timer = setInterval(() => this.#lookAgain(), LOOK_AGAIN_MS).unref();
  }

  /** There are some, or may be. */
  get any(): boolean {
    return this.#blocks.size > 0 || this.#suspects.size > 0 || this.#looking >= 0;
  }

  get bytes(): number {
    return this.#blocks.size * BLOCK_SIZE;
  }

  /** The first few, in order. */
  ranges(most: number): BadRange[] {
    const { size } = this.#options.image;
    const ranges = new BlockRanges();
    for (const block of this.#blocks) ranges.add(block, block + 1);
    return [...ranges].slice(0, most).map(({ first, end }) => ({
      offset: first * BLOCK_SIZE,
      length: bytesIn(first, end, size),
      at: 'image',
    }));
  }

  /** In one line; null while there are none. */
  get error(): string | null {
    if (this.#blocks.size === 0) return null;
    return `${this.bytes} bytes of the image cannot be read any more, first at ${this.ranges(1)[0]!.offset}: the origin is kept until they can be, or are written anew`;
  }

  stop(): void {
    this.#stopped = true;
    this.#options.image.onReadError = null;
    clearInterval(this.#timer);
    this.#suspects.clear();
  }

  #suspect(position: number, length: number): void {
    // What we read ourselves is judged there.
    if (length <= BLOCK_SIZE && blockAt(position) === this.#looking) return;
    const end = blockBehind(position + length);
    for (let block = blockAt(position); block < end; block++) {
      if (this.#suspects.size < MOST) this.#suspects.add(block);
    }
    this.#look();
  }

  #lookAgain(): void {
    for (const block of this.#blocks) this.#suspects.add(block);
    this.#look();
  }

  /** At one block after the other. */
  #look(): void {
    const [block] = this.#suspects;
    if (this.#looking >= 0 || block === undefined || this.#stopped) return;
    const { image } = this.#options;
    this.#suspects.delete(block);
    this.#looking = block;
    const offset = block * BLOCK_SIZE;
    image.read(Buffer.allocUnsafe(bytesIn(block, block + 1, image.size)), offset, {
      complete: (errno) =>
        // Not within the call: many may be answered at once.
        setImmediate(() => {
          this.#looking = -1;
          this.#judge(block, errno);
          this.#look();
        }),
    });
  }

  #judge(block: number, errno: number): void {
    if (this.#stopped) return;
    const before = this.#blocks.size;
    if (errno === 0) this.#blocks.delete(block);
    else if (before < MOST) this.#blocks.add(block);
    if (!this.#said && this.#blocks.size > 0) {
      this.#said = true;
      log.error(String(this.error));
    }
    if (this.#blocks.size !== before || !this.any) this.#options.onChange();
  }
}
