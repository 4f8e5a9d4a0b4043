/**
 * One read of a proxy that finds blocks absent: present stretches come from the image, absent ones from the
 * fetches that bring them, in any number and order. It completes when all have come. What each block is, is
 * decided once, when the read begins: a write that overtakes it is a concurrent one.
 *
 * When it has waited for the origin too long it is an error, and what comes from there later is thrown away:
 * the buffer is the caller's again as soon as the last local stretch has been read.
 */
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE, type BlockRange, blockAt, blockBehind } from '../../store/block-ranges.ts';
import type { Completion } from '../../store/completion.ts';
import type { Image } from '../../store/image/image.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { Fetcher, Reader } from '../fetch/fetcher.ts';
import type { GuestWaits, Wait } from '../fetch/guest-waits.ts';
import { guestErrno } from '../origin/guest-errno.ts';

export class ProxyRead implements Reader {
  /** It has waited too long: nothing more is taken. */
  over = false;
  readonly #into: Buffer;
  readonly #offset: number;
  readonly #done: Completion;
  /** One for `start` itself, so that answers that come at once do not complete it early. */
  #localPieces = 1;
  #remotePieces = 0;
  #errno = 0;
  #wait: Wait | null = null;

  constructor(into: Buffer, offset: number, done: Completion) {
    this.#into = into;
    this.#offset = offset;
    this.#done = done;
  }

  start(image: Image, map: PresentMap, fetcher: Fetcher, waits: GuestWaits): void {
    const end = this.#offset + this.#into.length;
    const endBlock = blockBehind(end);
    let block = blockAt(this.#offset);
    const absent: BlockRange[] = [];
    const local: Completion = { complete: (errno) => this.#localCame(errno) };
    while (block < endBlock) {
      if (map.has(block)) {
        const runEnd = map.nextAbsent(block, endBlock);
        const from = Math.max(block * BLOCK_SIZE, this.#offset);
        const to = Math.min(runEnd * BLOCK_SIZE, end);
        this.#localPieces++;
        image.read(this.#into.subarray(from - this.#offset, to - this.#offset), from, local);
        block = runEnd;
      } else {
        const runEnd = map.nextPresent(block, endBlock);
        absent.push({ first: block, end: runEnd });
        block = runEnd;
      }
    }
    for (const run of absent) {
      // On a link that is closed the answers come within the call.
      const pieces = fetcher.read(run.first, run.end, this);
      this.#remotePieces += pieces;
    }
    if (this.#remotePieces > 0) {
      this.#wait = waits.begin(
        () => this.#expire(Errno.EIO),
        () => this.#expire(Errno.ESHUTDOWN),
      );
    }
    this.#localCame(0);
  }

  take(data: Buffer, offset: number): void {
    if (this.over) return;
    const start = offset - this.#offset;
    // The first and last block of the read may be wanted in part.
    if (start < 0) data.copy(this.#into, 0, -start);
    else data.copy(this.#into, start, 0, this.#into.length - start);
  }

  /** A stretch has come from the origin. */
  complete(errno: number): void {
    if (this.over) return;
    if (this.#errno === 0) this.#errno = guestErrno(errno);
    this.#remotePieces -= 1;
    this.#finishIfLast();
  }

  #localCame(errno: number): void {
    if (this.#errno === 0) this.#errno = guestErrno(errno);
    this.#localPieces -= 1;
    this.#finishIfLast();
  }

  #expire(errno: number): void {
    this.over = true;
    this.#errno = errno;
    this.#remotePieces = 0;
    this.#finishIfLast();
  }

  #finishIfLast(): void {
    if (this.#localPieces > 0 || this.#remotePieces > 0) return;
    this.#wait?.end();
    this.#done.complete(this.#errno);
  }
}
