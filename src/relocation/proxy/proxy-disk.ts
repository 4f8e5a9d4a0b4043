/**
 * The proxy: a disk whose blocks are still arriving (docs/architecture.md, the life of a disk).
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
import type { Image } from '../../store/image/image.ts';
import type { GuestWaits } from '../fetch/guest-waits.ts';
import { type OriginAllocation, passThrough } from '../origin/allocation.ts';
import { guestErrno } from '../origin/guest-errno.ts';
import type { OriginLink } from '../origin/link.ts';
import { ChangeGate } from './change-gate.ts';
import { ProxyCache } from './proxy-cache.ts';
import {
  type Apply,
  appliesAtOnce,
  type ChangedRange,
  type ChangeParts,
  ProxyChange,
  partialBlocks,
} from './proxy-change.ts';
import { proxyExtents } from './proxy-extents.ts';
import { ProxyRead } from './proxy-read.ts';

/** What the proxy works with once it may keep blocks. */
export interface RelocatingParts extends ChangeParts {
  allocation: OriginAllocation;
}

/** A client's request that waits for the origin. */
interface Patience {
  /** It has waited too long, and been answered. */
  isOver: () => boolean;
  /** Ends the wait. @returns false when it has been too long: the request is none any more */
  waits: () => boolean;
}

export class ProxyDisk implements Disk {
  readonly size: number;
  /** Begins the takeover, at any time. It ends with `startRelocating`, or rejects. */
  onFirstChange: (() => Promise<void>) | null = null;
  /** Counts clients' changes after the takeover. */
  readonly changes = new ChangeGate();
  /** A client has read before the takeover: a hypervisor that waits for its guest does. */
  readInStandby = false;
  readonly #image: Image;
  readonly #local: LocalDisk;
  readonly #link: OriginLink | null;
  readonly #waits: GuestWaits;
  #parts: RelocatingParts | null = null;
  #complete: boolean;

  /** @param link null for a disk that is complete already. */
  constructor(image: Image, link: OriginLink | null, waits: GuestWaits) {
    this.size = image.size;
    this.#waits = waits;
    this.#image = image;
    this.#local = new LocalDisk(image);
    this.#link = link;
    this.#complete = link === null;
    // An outage may be long: what was fetched for requests that have been answered does not wait for its end.
    waits.onExpired = () => link?.dropUnwanted();
  }

  get phase(): 'standby' | 'relocating' | 'complete' {
    if (this.#complete) return 'complete';
    return this.#parts === null ? 'standby' : 'relocating';
  }

  /** From standby to relocating: the origin is fenced and the map is on disk. */
  startRelocating(parts: RelocatingParts): void {
    this.#parts = parts;
  }

  /** From relocating to complete: every block is present, and the record says so. */
  completed(): void {
    this.#complete = true;
  }

  endBatch(): void {
    this.#image.endBatch();
  }

  read(into: Buffer, offset: number, done: Completion): void {
    if (this.#complete) {
      this.#image.read(into, offset, done);
      return;
    }
    if (this.#parts === null) {
      this.#readThrough(into, offset, done);
      return;
    }
    const { map, fetcher } = this.#parts;
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
    const atOnce = this.#parts !== null && appliesAtOnce(this.#parts, offset, data.length);
    const owned = atOnce ? data : Buffer.from(data);
    this.#change({ offset, length: data.length, fua }, done, (changed) =>
      this.#image.write(owned, offset, changed),
    );
  }

  trim(offset: number, length: number, fua: boolean, done: Completion): void {
    if (this.#complete) this.#local.trim(offset, length, fua, done);
    else this.#change({ offset, length, fua }, done, (changed) => this.#image.punch(offset, length, changed));
  }

  zero(offset: number, length: number, how: ZeroHow, done: Completion): void {
    if (this.#complete) this.#local.zero(offset, length, how, done);
    // Neither a takeover nor a fetch is fast.
    else if (how.fast && (this.#parts === null || partialBlocks(this.#parts.map, offset, length).length > 0))
      done.complete(Errno.ENOTSUP);
    else {
      this.#change({ offset, length, fua: how.fua }, done, (changed) =>
        this.#image.zero(offset, length, how, changed),
      );
    }
  }

  /** After the takeover, absent blocks are fetched and kept; before it there is nothing that may be done. */
  cache(offset: number, length: number, done: Completion): void {
    if (this.#complete) this.#local.cache(offset, length, done);
    else if (this.#parts === null) done.complete(0);
    else new ProxyCache(this.#parts, this.#waits, offset, length, done).proceed();
  }

  flush(done: Completion): void {
    if (this.#complete) this.#image.sync(done);
    else if (this.#parts !== null) this.#parts.map.flush(done);
    // Nothing was written here. QEMU flushes before the switchover, too: it is no sign of one.
    else done.complete(0);
  }

  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void {
    if (this.#complete) this.#local.extents(offset, length, one, done);
    else if (this.#parts !== null)
      proxyExtents({ ...this.#parts, image: this.#image }, offset, length, one, done);
    else {
      passThrough(this.#link!, this.size, offset, length, (extents) =>
        done.complete(0, one ? extents.slice(0, 1) : extents),
      );
    }
  }

  /**
   * Before the takeover: straight from the origin, in whole blocks (it may ask for a minimum), by way of a
   * buffer of our own: the caller's is the caller's again when the request has waited too long.
   */
  #readThrough(into: Buffer, offset: number, done: Completion): void {
    this.readInStandby = true;
    const first = blockAt(offset) * BLOCK_SIZE;
    const end = byteEnd(blockBehind(offset + into.length), this.size);
    const whole = Buffer.allocUnsafeSlow(end - first);
    const guest = this.#patiently(done, true);
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
    this.#link!.read(whole, first, answered, { unwanted: guest.isOver });
  }

  /** A client's request begins to wait for the origin: it gets EIO when that takes too long. */
  #patiently(done: Completion, changesNothing = false): Patience {
    let over = false;
    const give = (errno: number) => () => {
      over = true;
      done.complete(errno);
    };
    const wait = this.#waits.begin(give(Errno.EIO), changesNothing ? give(Errno.ESHUTDOWN) : undefined);
    return {
      isOver: () => over,
      waits: () => {
        wait.end();
        return !over;
      },
    };
  }

  /** Carries out a write, trim or zeroing, after the takeover. */
  #change(range: ChangedRange, done: Completion, apply: Apply): void {
    const parts = this.#parts;
    if (parts === null) this.#takeOverFirst(() => this.#change(range, done, apply), done);
    // A sync has failed: nothing vouches for the change, and the next process would not find it.
    else if (parts.map.failed !== null) done.complete(Errno.EIO);
    else if (!this.changes.enter()) done.complete(Errno.ESHUTDOWN);
    else new ProxyChange(parts, this.changes, range, apply, done).start(this.#waits);
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
