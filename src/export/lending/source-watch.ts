/**
 * Answers WAIT_GONE: tells the lease holder when the source's guest is gone.
 *
 * By hand the word is the orderly disconnect (NBD_CMD_DISC) of the last client. A link that merely breaks is
 * no such word, nor is a later disconnect then: a client that lost its connection may be about to come back.
 */
import { Errno } from '../../nbd/constants.ts';
import type { Completion } from '../../store/completion.ts';

export class SourceWatch {
  readonly #byDisconnect: boolean;
  #gone = false;
  #ended = false;
  #broken = false;
  #waiting: { link: object; done: Completion }[] = [];

  constructor(byDisconnect: boolean) {
    this.#byDisconnect = byDisconnect;
  }

  /**
   * A new lease begins: what was before does not count, but for the word that the guest has ended. It may be
   * the same holder, whose link was broken when that was told. @returns whether the guest has ended
   */
  reset(): boolean {
    this.#gone = this.#ended;
    this.#broken = false;
    return this.#ended;
  }

  /** The guest that was here has ended, and no other has come. */
  ended(): void {
    this.#ended = true;
  }

  /** Another may have. */
  began(): void {
    this.#ended = false;
  }

  get memory(): { gone: boolean; broken: boolean } {
    return { gone: this.#gone, broken: this.#broken };
  }

  /** As an earlier process knew it. */
  remember({ gone, broken }: { gone: boolean; broken: boolean }): void {
    this.#gone = gone;
    this.#broken = broken;
  }

  clientLeft(orderly: boolean, remaining: number): void {
    if (!orderly) this.#broken = true;
    else if (remaining === 0 && this.#byDisconnect && !this.#broken) this.gone();
  }

  gone(): void {
    this.#gone = true;
    this.#answer(() => true, Errno.OK);
  }

  wait(link: object, done: Completion): void {
    if (this.#gone) done.complete(Errno.OK);
    else this.#waiting.push({ link, done });
  }

  /** A connection that may have waited is gone. */
  forget(link: object): void {
    this.#answer((waiter) => waiter.link === link, Errno.ESHUTDOWN);
  }

  /** The word will not come any more. */
  stop(): void {
    this.#answer(() => true, Errno.ESHUTDOWN);
  }

  #answer(which: (waiter: { link: object }) => boolean, errno: number): void {
    const answered = this.#waiting.filter(which);
    this.#waiting = this.#waiting.filter((waiter) => !which(waiter));
    for (const { done } of answered) done.complete(errno);
  }
}
