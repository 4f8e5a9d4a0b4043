/**
 * How long the guest waited for its reads while the disk was on its way: those whose blocks were here
 * already, and those that had to be fetched. Which is which says the present map itself, on disk beside the
 * image, at the moment when the guest asks. Holes are neither: they are not here, but nothing is fetched for
 * them.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';

/**
 * present.live (src/store/maps/present-map.ts): a page that says whose map it is, then one bit a block of 4
 * KiB, the lowest first.
 */
const HEADER = 4096;
const BLOCK = 4096;

export class Latencies {
  readonly cached: number[] = [];
  readonly cold: number[] = [];
  readonly #path: string;
  readonly #isHole: (block: number) => boolean;
  #file: number | null = null;

  /** @param isHole tells whether a block was nothing but zeros when the disk began to move. */
  constructor(stateDir: string, isHole: (block: number) => boolean) {
    this.#path = join(stateDir, 'present.live');
    this.#isHole = isHole;
  }

  /** To be called before the read; the result takes its milliseconds. */
  observe(offset: number, length: number): (milliseconds: number) => void {
    const absent = this.#absent(offset, length);
    if (absent.length === 0) return (milliseconds) => void this.cached.push(milliseconds);
    if (absent.every(this.#isHole)) return () => undefined;
    return (milliseconds) => void this.cold.push(milliseconds);
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }

  /** The blocks of a range that are not here. */
  #absent(offset: number, length: number): number[] {
    const first = Math.floor(offset / BLOCK);
    const count = Math.floor((offset + length - 1) / BLOCK) - first + 1;
    const byte = first >> 3;
    const bits = Buffer.alloc(((first + count - 1) >> 3) - byte + 1);
    this.#readMap(bits, HEADER + byte);
    return Array.from({ length: count }, (_, index) => first + index).filter(
      (block) => (bits[(block >> 3) - byte]! & (1 << (block & 7))) === 0,
    );
  }

  /** Without a map, which begins with the takeover, nothing is here. */
  #readMap(into: Buffer, at: number): void {
    try {
      this.#file ??= openSync(this.#path, 'r');
      readSync(this.#file, into, 0, into.length, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}

/** The value that `share` (0 to 1) of the values do not exceed; 0 of none. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
