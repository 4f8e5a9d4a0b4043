/**
 * Keeps a host of the network from taking a disk from a guest that runs on here.
 *
 * Such a takeover passes when no client of this host is connected (any more), when the source's guest is
 * gone, or when libvirt says that the guest is being migrated away. One that comes before that word waits for
 * it, because the word and the first write of the destination's guest take different ways.
 */
import { Recurring } from '../../log/recurring.ts';
import { Errno } from '../../nbd/constants.ts';
import type { LeaseLink } from './lease.ts';

const refusals = new Recurring('error');

/** The source's hooks come 1.5 to 3 s after its guest has paused, and its daemon may have to start first. */
const LIMIT_MS = 30_000;

interface Waiter {
  link: LeaseLink;
  end: (errno: number) => void;
}

export class TakeoverGuard {
  /** How long a takeover waits for the word, milliseconds. */
  limitMs = LIMIT_MS;
  readonly #localClients: () => number;
  #open = false;
  #waiting: Waiter[] = [];

  /** @param localClients how many clients of this host are connected */
  constructor(localClients: () => number) {
    this.#localClients = localClients;
  }

  /** A new lease begins: what was before does not count. @param gone the guest has ended before it */
  reset(gone: boolean): void {
    this.#open = gone;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /**
   * @returns 0 once the takeover may go on; EPERM when the guest has not left in time; ESHUTDOWN: the link
   * has gone
   */
  async passes(link: LeaseLink): Promise<number> {
    if (link.peer === null || this.#open || this.#localClients() === 0) return Errno.OK;
    const { promise, resolve } = Promise.withResolvers<number>();
    const waiter: Waiter = { link, end: resolve };
    this.#waiting.push(waiter);
    const timer = setTimeout(() => this.#end((each) => each === waiter, Errno.EPERM), this.limitMs);
    const errno = await promise;
    clearTimeout(timer);
    if (errno === Errno.EPERM)
      refusals.met(
        `${link.peer.who} wants to take the disk over, and its guest runs on here: libvirt tells of no migration; refused`,
        { kind: link.peer.identity },
      );
    return errno;
  }

  /** The source's guest leaves, or is gone. */
  open(): void {
    this.#open = true;
    this.#end(() => true, Errno.OK);
  }

  /** A client of this host has left. */
  clientLeft(): void {
    if (this.#localClients() === 0) this.#end(() => true, Errno.OK);
  }

  /** A connection that may wait is gone. */
  forget(link: LeaseLink): void {
    this.#end((waiter) => waiter.link === link, Errno.ESHUTDOWN);
  }

  /** The lease ends. */
  stop(): void {
    this.#end(() => true, Errno.ESHUTDOWN);
  }

  #end(which: (waiter: Waiter) => boolean, errno: number): void {
    const ended = this.#waiting.filter(which);
    this.#waiting = this.#waiting.filter((waiter) => !which(waiter));
    for (const { end } of ended) end(errno);
  }
}
