/**
 * The blocks that clients have changed since the last sync of the image: what is lost when a sync fails, or
 * when the page cache goes with its storage.
 *
 * There are two sets, because a sync vouches only for what had been written when it began: what is changed
 * while one runs waits for the next.
 */
import { Bitmap, PAGE } from './bitmap.ts';
import { addPages } from './map-file.ts';

interface Generation {
  bits: Bitmap;
  /** Pages of the bits in which any may be set: a sync costs no look at the others. */
  pages: Set<number>;
}

export class UnsyncedBlocks {
  #current: Generation;
  #syncing: Generation;

  /** @param blocks of the image */
  constructor(blocks: number) {
    this.#current = { bits: new Bitmap(blocks), pages: new Set() };
    this.#syncing = { bits: new Bitmap(blocks), pages: new Set() };
  }

  /** These blocks have been changed: the change is in the page cache. */
  add(first: number, count: number): void {
    if (this.#current.bits.set(first, count) > 0) addPages(this.#current.pages, first, count);
  }

  /** All of these blocks, as `add`. */
  addAll(blocks: Bitmap): void {
    for (const page of this.#current.bits.add(blocks)) this.#current.pages.add(page);
  }

  /** A sync begins; it ends with `synced`, or fails. */
  syncs(): void {
    [this.#current, this.#syncing] = [this.#syncing, this.#current];
    // What an earlier sync failed to vouch for.
    this.#move(this.#current, this.#syncing);
  }

  /** The sync that began last has succeeded. */
  synced(): void {
    clear(this.#syncing);
  }

  /** Adds all of them to another bitmap. */
  addTo(bits: Bitmap): void {
    bits.add(this.#current.bits);
    bits.add(this.#syncing.bits);
  }

  #move(from: Generation, to: Generation): void {
    for (const page of from.pages) {
      to.bits.load(from.bits.bytes.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
      to.pages.add(page);
    }
    clear(from);
  }
}

function clear({ bits, pages }: Generation): void {
  const each = PAGE * 8;
  for (const page of pages) bits.clear(page * each, Math.min(each, bits.length - page * each));
  pages.clear();
}
