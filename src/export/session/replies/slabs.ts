/**
 * Memory in which replies are built, a megabyte at a time.
 *
 * A slab that all its replies have left is used again, by whichever connection needs one next, the last used
 * first: its pages are there, and perhaps in the processor's cache. New memory for each burst would cost a
 * fault for every page, and make V8 collect garbage for the sake of memory that is not on its heap. What was
 * not needed for SPARE_MS is given back to the system.
 */
import { addressOf } from '../../../system/syscalls.ts';

export const SLAB_BYTES = 1024 * 1024;
const SPARE_MS = 1000;
const MOST_SPARE = 64;

export interface Slab {
  readonly bytes: Buffer;
  /** Of `bytes`. */
  readonly address: number;
  /** Offset behind the last reservation. */
  used: number;
  /** Reservations that have not left yet. */
  held: number;
}

export function newSlab(length: number): Slab {
  const bytes = Buffer.allocUnsafeSlow(length);
  return { bytes, address: addressOf(bytes), used: 0, held: 0 };
}

export class SpareSlabs {
  #slabs: Slab[] = [];
  /** The fewest that were here since the last look: these no reply needed. */
  #unneeded = 0;
  #timer: NodeJS.Timeout | undefined;

  get length(): number {
    return this.#slabs.length;
  }

  take(): Slab {
    const slab = this.#slabs.pop() ?? newSlab(SLAB_BYTES);
    this.#unneeded = Math.min(this.#unneeded, this.#slabs.length);
    return slab;
  }

  /** Of SLAB_BYTES, and with nothing in it. */
  add(slab: Slab): void {
    if (this.#slabs.length >= MOST_SPARE) return;
    this.#slabs.push(slab);
    this.#timer ??= setTimeout(() => this.#look(), SPARE_MS).unref();
  }

  #look(): void {
    this.#slabs.splice(0, this.#unneeded);
    this.#unneeded = this.#slabs.length;
    this.#timer = this.#slabs.length === 0 ? undefined : setTimeout(() => this.#look(), SPARE_MS).unref();
  }
}

/** Of this process, that is of one export. */
export const spareSlabs = new SpareSlabs();
