/**
 * The proxy: a disk whose blocks are still arriving (Hirofuchi et al. 2008, section 5.1;
 * docs/architecture.md).
 *
 *     standby --takeover--> relocating --every block present--> complete
 *
 * - **standby**: the source's guest still writes at the origin. Reads pass through and nothing is kept; the
 *   first write, trim or zeroing begins the takeover and waits for it. (QEMU reads block 0 long before the
 *   switchover: keeping that corrupts the guest.)
 * - **takeover** (relocation.ts): the origin is fenced, then our record says `relocating`, then the map is
 *   empty and ready. Only after that is a block kept or a write acknowledged.
 * - **relocating**: present blocks are read from the image; absent ones are fetched (fetcher.ts); whole
 *   blocks that a client writes never are. A partial write to an absent block fetches the block first. The
 *   background copy brings the rest.
 * - **complete**: the record says so, durably; then the origin is told to retire. Every call goes straight to
 *   the local disk.
 *
 * Whatever changes an absent block does so under the block lock (block-locks.ts).
 */
import type { Disk, ZeroHow } from '../../export/disk.ts';
import { LocalDisk } from '../../export/local-disk.ts';
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, blockAt, blockBehind, byteEnd } from '../../store/block-ranges.ts';
import type { Completion, ExtentsCompletion } from '../../store/completion.ts';
import { Countdown } from '../../store/countdown.ts';
import type { Image } from '../../store/image/image.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { BlockLocks } from '../fetch/block-locks.ts';
import type { Fetcher, Keeper } from '../fetch/fetcher.ts';
import type { GuestWaits } from '../fetch/guest-waits.ts';
import type { ImageSpace } from '../fetch/image-space.ts';
import { type OriginAllocation, passThrough } from '../origin/allocation.ts';
import { guestErrno } from '../origin/guest-errno.ts';
import type { OriginLink } from '../origin/link.ts';
import { ProxyCache } from './proxy-cache.ts';
import { proxyExtents } from './proxy-extents.ts';
import { ProxyRead } from './proxy-read.ts';

/** What the proxy works with once it may keep blocks. */
export interface Keeping {
  map: PresentMap;
  locks: BlockLocks;
  fetcher: Fetcher;
  allocation: OriginAllocation;
  space: ImageSpace;
}

/** A client's request that waits for the origin. */
interface Patience {
  /** It has waited too long, and been answered. */
  isOver: () => boolean;
  /** Ends the wait. @returns false when it has been too long: the request is none any more */
  waits: () => boolean;
}

const NO_WAIT: Patience = { isOver: () => false, waits: () => true };

export class ProxyDisk implements Disk {
  readonly size: number;
  /** Begins the takeover; may be called at any time. Its end is told by `keep`, or by a rejection. */
  onFirstChange: (() => Promise<void>) | null = null;
  /**
   * A client's write, trim or zeroing has been acknowledged: from then on giving up the move would lose data.
   */
  changed = false;
  /** Told when that happens first. */
  onChanged: (() => void) | null = null;
  /** A client has read before the takeover: a hypervisor that waits for its guest does. */
  awaited = false;
  readonly #image: Image;
  readonly #local: LocalDisk;
  readonly #link: OriginLink | null;
  readonly #waits: GuestWaits;
  #keeping: Keeping | null = null;
  #complete: boolean;
  /** Changes let in after the takeover and not answered yet. */
  #changing = 0;
  #refusing = false;

  /** @param link null for a disk that is complete already. */
  constructor(image: Image, link: OriginLink | null, waits: GuestWaits) {
    this.size = image.size;
    this.#waits = waits;
    this.#image = image;
    this.#local = new LocalDisk(image);
    this.#link = link;
    this.#complete = link === null;
    // An outage may be long: what was fetched for those who have been answered does not wait for its end.
    waits.onExpired = () => link?.dropUnwanted();
  }

  get phase(): 'standby' | 'relocating' | 'complete' {
    if (this.#complete) return 'complete';
    return this.#keeping === null ? 'standby' : 'relocating';
  }

  /** From standby to relocating: the origin is fenced and the map is on disk. */
  keep(keeping: Keeping): void {
    this.#keeping = keeping;
  }

  /** From relocating to complete: every block is present, and the record says so. */
  completed(): void {
    this.#complete = true;
  }

  /**
   * Lets no change in any more. @returns false, and does nothing, once one has been let in: giving up could
   * lose it.
   */
  refuseChanges(): boolean {
    if (this.changed || this.#changing > 0) return false;
    this.#refusing = true;
    return true;
  }

  /** Changes are let in again. */
  admitChanges(): void {
    this.#refusing = false;
  }

  endBatch(): void {
    this.#image.endBatch();
  }

  read(into: Buffer, offset: number, done: Completion): void {
    if (this.#complete) {
      this.#image.read(into, offset, done);
      return;
    }
    if (this.#keeping === null) {
      this.#readThrough(into, offset, done);
      return;
    }
    const { map, fetcher } = this.#keeping;
    const end = blockBehind(offset + into.length);
    if (map.hasAll(blockAt(offset), end)) this.#image.read(into, offset, done);
    else new ProxyRead(into, offset, done).start(this.#image, map, fetcher, this.#waits);
  }

  write(data: Buffer, offset: number, fua: boolean, done: Completion): void {
    if (this.#complete) {
      this.#local.write(data, offset, fua, done);
      return;
    }
    // The caller's buffer is valid during this call only.
    const owned = this.#changesNow(offset, data.length) ? data : Buffer.from(data);
    this.#change(offset, data.length, fua, done, (changed) => this.#image.write(owned, offset, changed));
  }

  trim(offset: number, length: number, fua: boolean, done: Completion): void {
    if (this.#complete) this.#local.trim(offset, length, fua, done);
    else this.#change(offset, length, fua, done, (changed) => this.#image.punch(offset, length, changed));
  }

  zero(offset: number, length: number, how: ZeroHow, done: Completion): void {
    if (this.#complete) this.#local.zero(offset, length, how, done);
    // Neither a takeover nor a fetch is fast.
    else if (how.fast && !this.#changesWithoutFetch(offset, length)) done.complete(Errno.ENOTSUP);
    else {
      this.#change(offset, length, how.fua, done, (changed) =>
        this.#image.zero(offset, length, how, changed),
      );
    }
  }

  /** After the takeover, absent blocks are fetched and kept; before it there is nothing that may be done. */
  cache(offset: number, length: number, done: Completion): void {
    if (this.#complete) this.#local.cache(offset, length, done);
    else if (this.#keeping === null) done.complete(0);
    else new ProxyCache(this.#keeping, this.#waits, offset, length, done).proceed();
  }

  flush(done: Completion): void {
    if (this.#complete) this.#image.sync(done);
    else if (this.#keeping !== null) this.#keeping.map.flush(done);
    // Nothing was written here. QEMU flushes before the switchover, too: it is no sign of one.
    else done.complete(0);
  }

  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void {
    if (this.#complete) this.#local.extents(offset, length, one, done);
    else if (this.#keeping !== null)
      proxyExtents({ ...this.#keeping, image: this.#image }, offset, length, one, done);
    else {
      passThrough(this.#link!, this.size, offset, length, (extents) =>
        done.complete(0, one ? extents.slice(0, 1) : extents),
      );
    }
  }

  /**
   * Before the takeover: straight from the origin, in whole blocks (it may ask for a minimum), by way of a
   * buffer of our own: the caller's is his again when he has waited too long.
   */
  #readThrough(into: Buffer, offset: number, done: Completion): void {
    this.awaited = true;
    const first = blockAt(offset) * BLOCK_SIZE;
    const end = byteEnd(blockBehind(offset + into.length), this.size);
    const whole = Buffer.allocUnsafeSlow(end - first);
    const guest = this.#patiently(done);
    const answered: Completion = {
      complete: (errno) => {
        if (!guest.waits()) return;
        if (errno === 0) whole.copy(into, 0, offset - first, offset - first + into.length);
        // An answer that takes longer than the whole relocation is not needed any more: the link is closed
        // upon it.
        if (errno !== 0 && this.#complete) this.#image.read(into, offset, done);
        else done.complete(guestErrno(errno));
      },
    };
    this.#link!.read(whole, first, answered, guest.isOver);
  }

  /** A client's request begins to wait for the origin: it gets EIO when that takes too long. */
  #patiently(done: Completion): Patience {
    let over = false;
    const wait = this.#waits.begin(() => {
      over = true;
      done.complete(Errno.EIO);
    });
    return {
      isOver: () => over,
      waits: () => {
        wait.end();
        return !over;
      },
    };
  }

  /** A change to this range is carried out within the call that asks for it. */
  #changesNow(offset: number, length: number): boolean {
    if (this.#keeping === null) return false;
    const { map, locks } = this.#keeping;
    if (map.hasAll(blockAt(offset), blockBehind(offset + length))) return true;
    return locks.idle && partialBlocks(map, offset, length).length === 0;
  }

  /** Neither the network nor a takeover is needed for a change to this range. */
  #changesWithoutFetch(offset: number, length: number): boolean {
    return this.#keeping !== null && partialBlocks(this.#keeping.map, offset, length).length === 0;
  }

  /**
   * Carries out a write, trim or zeroing of [offset, +length): after the takeover, with the blocks that it
   * covers in part made local first, and, where a block is absent, under its lock.
   */
  #change(
    offset: number,
    length: number,
    fua: boolean,
    done: Completion,
    action: (changed: Completion) => void,
  ): void {
    if (this.#keeping === null) {
      this.#takeOverFirst(() => this.#change(offset, length, fua, done, action), done);
      return;
    }
    if (this.#refusing) {
      done.complete(Errno.ESHUTDOWN);
      return;
    }
    const { map, locks, fetcher, space } = this.#keeping;
    // A sync has failed: nobody would vouch for the change, and the next process would not find it.
    if (map.failed !== null) {
      done.complete(Errno.EIO);
      return;
    }
    this.#changing += 1;
    const first = blockAt(offset);
    const end = blockBehind(offset + length);
    const finish: Completion = {
      complete: (errno) => {
        this.#changing -= 1;
        if (errno === 0) map.changed(first, end - first);
        if (errno === 0 && !this.changed) {
          this.changed = true;
          this.onChanged?.();
        } else if (errno === Errno.ENOSPC) space.refused();
        if (errno === 0 && fua) map.flush(done);
        else done.complete(errno);
      },
    };
    if (map.hasAll(first, end)) {
      map.written.mark(first, end - first);
      action(finish);
      return;
    }
    const partial = partialBlocks(map, offset, length);
    const guest = partial.length === 0 ? NO_WAIT : this.#patiently(finish);
    const ready = new Countdown(partial.length, {
      complete: (fetched) => {
        if (!guest.waits()) return;
        if (fetched !== 0) {
          finish.complete(fetched === Errno.ENOSPC ? fetched : guestErrno(fetched));
          return;
        }
        locks.acquire(first, end - first, (release) => {
          map.written.mark(first, end - first);
          action({
            complete: (errno) => {
              const outcome = errno !== 0 ? errno : map.mark(first, end - first);
              release();
              finish.complete(outcome);
              // A write may have brought the last absent block.
              fetcher.onSettled?.();
            },
          });
        });
      },
    });
    const keeper: Keeper = {
      vital: true,
      get over() {
        return guest.isOver();
      },
      complete: (errno) => ready.complete(errno),
    };
    for (const block of partial) fetcher.keep(block, block + 1, keeper);
  }

  #takeOverFirst(then: () => void, done: Completion): void {
    if (this.onFirstChange === null) {
      done.complete(Errno.ESHUTDOWN);
      return;
    }
    const guest = this.#patiently(done);
    this.onFirstChange().then(
      () => guest.waits() && then(),
      () => guest.waits() && done.complete(Errno.EIO),
    );
  }
}

/**
 * The absent blocks, two at most, of which a change to [offset, +length) leaves a part as it is at the
 * origin.
 */
function partialBlocks(map: PresentMap, offset: number, length: number): number[] {
  const end = offset + length;
  const partial: number[] = [];
  const first = blockAt(offset);
  if (offset % BLOCK_SIZE !== 0 && !map.has(first)) partial.push(first);
  const last = blockAt(end);
  if (end % BLOCK_SIZE !== 0 && end !== map.sizeBytes && !map.has(last) && partial[0] !== last)
    partial.push(last);
  return partial;
}
