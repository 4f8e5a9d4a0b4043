/**
 * One write, trim or zeroing after the takeover, in steps:
 *
 *     fetch parts -----> lock -----> apply -----> end
 *          |                           ^
 *          +-- every block present ----+
 *
 * - **fetch parts**: of a block that the change covers in part, what is left of it is at the origin: such a
 *   block, the first or the last one, is made local first. Whole blocks are never fetched.
 * - **lock** (fetch/block-locks.ts): so that a fetch that arrives late does not overwrite the change.
 * - **apply**: the blocks are marked as written, then the image is changed, then they are marked as present.
 * - **end**: the answer, for FUA after a flush.
 *
 * A change to present blocks needs no lock, and begins with `apply`, within the call.
 */
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, blockAt, blockBehind } from '../../store/block-ranges.ts';
import type { Completion } from '../../store/completion.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { BlockLocks } from '../fetch/block-locks.ts';
import type { Fetcher, LocalWaiter } from '../fetch/fetcher.ts';
import type { GuestWaits, Wait } from '../fetch/guest-waits.ts';
import type { ImageSpace } from '../fetch/image-space.ts';
import { guestErrno } from '../origin/guest-errno.ts';
import type { ChangeGate } from './change-gate.ts';

/** What changes work with. */
export interface ChangeParts {
  map: PresentMap;
  locks: BlockLocks;
  fetcher: Fetcher;
  space: ImageSpace;
}

export interface ChangedRange {
  /** Bytes. */
  offset: number;
  length: number;
  fua: boolean;
}

/** Changes the image within that range. */
export type Apply = (changed: Completion) => void;

export class ProxyChange implements LocalWaiter {
  readonly vital = true;
  /** It has waited too long, and been answered. */
  over = false;
  readonly #parts: ChangeParts;
  readonly #gate: ChangeGate;
  readonly #first: number;
  readonly #end: number;
  readonly #range: ChangedRange;
  readonly #apply: Apply;
  readonly #done: Completion;
  #wait: Wait | null = null;
  /** Parts that are not local yet, and the first error among those that came. */
  #missing = 0;
  #errno = 0;

  /** A change that `gate` has let in. @param done may be completed within `start` */
  constructor(parts: ChangeParts, gate: ChangeGate, range: ChangedRange, apply: Apply, done: Completion) {
    this.#parts = parts;
    this.#gate = gate;
    this.#first = blockAt(range.offset);
    this.#end = blockBehind(range.offset + range.length);
    this.#range = range;
    this.#apply = apply;
    this.#done = done;
  }

  start(waits: GuestWaits): void {
    const { map } = this.#parts;
    if (map.hasAll(this.#first, this.#end)) {
      this.#applyTo(null);
      return;
    }
    const { offset, length } = this.#range;
    const partial = partialBlocks(map, offset, length);
    if (partial.length === 0) this.#lock();
    else this.#fetchParts(partial, waits);
  }

  /** A part is local now, or cannot be. */
  complete(errno: number): void {
    if (this.#errno === 0) this.#errno = errno;
    this.#missing -= 1;
    if (this.#missing > 0 || this.over) return;
    this.#wait!.end();
    if (this.#errno === 0) this.#lock();
    else this.#finish(this.#errno === Errno.ENOSPC ? Errno.ENOSPC : guestErrno(this.#errno));
  }

  #fetchParts(partial: readonly number[], waits: GuestWaits): void {
    this.#wait = waits.begin(() => {
      this.over = true;
      this.#finish(Errno.EIO);
    });
    this.#missing = partial.length;
    for (const block of partial) this.#parts.fetcher.keep(block, block + 1, this);
  }

  #lock(): void {
    this.#parts.locks.acquire(this.#first, this.#end - this.#first, (release) => this.#applyTo(release));
  }

  /** @param release of the lock; null where none is needed */
  #applyTo(release: (() => void) | null): void {
    const { map } = this.#parts;
    const count = this.#end - this.#first;
    map.written.mark(this.#first, count);
    this.#apply({
      complete: (errno) => {
        if (release === null) {
          this.#finish(errno);
          return;
        }
        const outcome = errno !== 0 ? errno : map.mark(this.#first, count);
        release();
        this.#finish(outcome);
      },
    });
  }

  #finish(outcome: number): void {
    const { map, space } = this.#parts;
    // A sync may have failed meanwhile: the next process would not find the change.
    const errno = outcome === 0 && map.failed !== null ? Errno.EIO : outcome;
    if (errno === 0) map.changed(this.#first, this.#end - this.#first);
    else if (errno === Errno.ENOSPC) space.refused();
    this.#gate.leave(errno);
    if (errno === 0 && this.#range.fua) map.flush(this.#done);
    else this.#done.complete(errno);
  }
}

/**
 * The absent blocks, two at most, of which a change to [offset, +length) leaves a part as it is at the
 * origin.
 */
export function partialBlocks(map: PresentMap, offset: number, length: number): number[] {
  const end = offset + length;
  const partial: number[] = [];
  const first = blockAt(offset);
  if (offset % BLOCK_SIZE !== 0 && !map.has(first)) partial.push(first);
  const last = blockAt(end);
  if (end % BLOCK_SIZE !== 0 && end !== map.sizeBytes && !map.has(last) && partial[0] !== last)
    partial.push(last);
  return partial;
}

/** A change to [offset, +length) is applied within `start`: its data need not be copied. */
export function appliesAtOnce({ map, locks }: ChangeParts, offset: number, length: number): boolean {
  if (map.hasAll(blockAt(offset), blockBehind(offset + length))) return true;
  return locks.idle && partialBlocks(map, offset, length).length === 0;
}
