/**
 * CACHE on a proxy: the absent blocks of a range are fetched and kept. A client may name the whole disk, so
 * only a few fetches are under way at a time; the others' turn comes as those arrive. An origin that fails
 * ends it: the command is a hint, and errors are told by READ.
 */

import { Errno } from '../../nbd/constants.ts';
import { blockAt, blockBehind } from '../../store/block-ranges.ts';
import type { Completion } from '../../store/completion.ts';
import type { PresentMap } from '../../store/maps/present-map.ts';
import type { Fetcher, LocalWaiter } from '../fetch/fetcher.ts';
import type { GuestWaits, Wait } from '../fetch/guest-waits.ts';
import { guestErrno } from '../origin/guest-errno.ts';

/** Fetches under way for one command, of at most 1 MiB each. */
const MAX_UNDER_WAY = 4;

export class ProxyCache implements LocalWaiter {
  readonly vital = false;
  /** It has waited too long. */
  over = false;
  readonly #map: PresentMap;
  readonly #fetcher: Fetcher;
  readonly #end: number;
  readonly #done: Completion;
  readonly #wait: Wait;
  #next: number;
  #underWay = 0;
  #errno = 0;

  constructor(
    { map, fetcher }: { map: PresentMap; fetcher: Fetcher },
    waits: GuestWaits,
    offset: number,
    length: number,
    done: Completion,
  ) {
    this.#map = map;
    this.#fetcher = fetcher;
    this.#next = blockAt(offset);
    this.#end = blockBehind(offset + length);
    this.#done = done;
    const give = (errno: number) => () => {
      this.over = true;
      done.complete(errno);
    };
    this.#wait = waits.begin(give(Errno.EIO), give(Errno.ESHUTDOWN));
  }

  /** Sends what may be sent now. */
  proceed(): void {
    if (this.over) return;
    while (this.#errno === 0 && this.#underWay < MAX_UNDER_WAY) {
      const first = this.#map.nextAbsent(this.#next, this.#end);
      if (first === this.#end) {
        this.#next = first;
        break;
      }
      this.#underWay += 1;
      this.#next = this.#fetcher.keep(first, this.#map.nextPresent(first, this.#end), this);
    }
    if (this.#underWay > 0) return;
    this.#wait.end();
    // No room to keep them: the hint is not taken.
    this.#done.complete(this.#errno === Errno.ENOSPC ? 0 : guestErrno(this.#errno));
  }

  complete(errno: number): void {
    this.#underWay -= 1;
    if (this.#errno === 0) this.#errno = errno;
    this.proceed();
  }
}
