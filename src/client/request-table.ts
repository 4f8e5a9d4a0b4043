/** The requests under way on one connection, by cookie, and what the server's replies do to them. */
import { Recurring } from '../log/recurring.ts';
import { Errno } from '../nbd/constants.ts';
import type { Extent } from '../nbd/extent.ts';
import { ReplyError, type ReplyReceiver } from '../nbd/transmission/reply-parser.ts';
import type { Completion, ExtentsCompletion } from '../store/completion.ts';

/** Errors with words, of all connections: each read of a bad sector brings one. */
const answers = new Recurring('warning');

/** What waits for a request's answer, and, for one that brings data, where the data go. */
export interface Awaiting {
  into?: Buffer;
  /** The data come in chunks alone: a simple reply brings none, only an error. */
  chunked?: boolean;
  done?: Completion;
  extentsDone?: ExtentsCompletion;
}

/**
 * Pieces of one READ that may arrive out of order: one for each sector of our longest. More is an attack on
 * our memory.
 */
const MOST_AHEAD = 2048;

class Pending {
  readonly offset: number;
  readonly awaiting: Awaiting;
  errno = 0;
  extents: Extent[] | null = null;
  /** Bytes of a READ that have arrived in a row from its start. */
  contiguous = 0;
  /** Pieces of a READ that arrived ahead of that: where each begins and ends. */
  readonly #ahead = new Map<number, number>();

  constructor(offset: number, awaiting: Awaiting) {
    this.offset = offset;
    this.awaiting = awaiting;
  }

  arrived(start: number, end: number): void {
    if (start !== this.contiguous) {
      if (this.#ahead.has(start) || this.#ahead.size === MOST_AHEAD)
        throw new ReplyError(`a READ at ${this.offset} is answered in too many pieces, or twice`);
      this.#ahead.set(start, end);
      return;
    }
    this.contiguous = end;
    for (let next = this.#takeNext(); next !== undefined; next = this.#takeNext()) this.contiguous = next;
  }

  #takeNext(): number | undefined {
    const end = this.#ahead.get(this.contiguous);
    this.#ahead.delete(this.contiguous);
    return end;
  }
}

export class RequestTable implements ReplyReceiver {
  readonly #pending = new Map<bigint, Pending>();
  /** Id of `base:allocation`, the one context that we ask for; null: it was not to be had. */
  readonly #context: number | null;
  #nextCookie = 1n;

  constructor(context: number | null) {
    this.#context = context;
  }

  /** How many requests are under way. */
  get size(): number {
    return this.#pending.size;
  }

  /** @returns the cookie for the request. */
  add(offset: number, awaiting: Awaiting): bigint {
    const cookie = this.#nextCookie++;
    this.#pending.set(cookie, new Pending(offset, awaiting));
    return cookie;
  }

  repeats(cookie: bigint, offset: bigint): void {
    const { offset: asked } = this.#find(cookie);
    if (BigInt(asked) !== offset)
      throw new ReplyError(`a reply for offset ${offset} to a request at ${asked}`);
  }

  simplePayload(cookie: bigint): Buffer | null {
    const pending = this.#find(cookie);
    const into = pending.awaiting.chunked === true ? null : (pending.awaiting.into ?? null);
    if (into !== null) pending.contiguous = into.length;
    return into;
  }

  dataTarget(cookie: bigint, offset: number, length: number): Buffer {
    const pending = this.#find(cookie);
    const { into } = pending.awaiting;
    const start = offset - pending.offset;
    if (into === undefined || start < pending.contiguous || start + length > into.length) {
      throw new ReplyError(`data for [${offset}, +${length}) does not fit the request at ${pending.offset}`);
    }
    pending.arrived(start, start + length);
    return into.subarray(start, start + length);
  }

  wantsExtents(cookie: bigint): void {
    const { awaiting, extents } = this.#find(cookie);
    if (awaiting.extentsDone === undefined) throw new ReplyError('block status came unasked');
    if (extents !== null) throw new ReplyError('block status came twice');
  }

  extents(cookie: bigint, context: number, extents: Extent[]): void {
    if (context !== this.#context) throw new ReplyError(`block status came for context ${context}`);
    this.#find(cookie).extents = extents;
  }

  failed(cookie: bigint, errno: number, message: string): void {
    this.#find(cookie).errno = errno;
    if (message !== '') answers.met(`the server answers error ${errno}: ${message}`, { kind: `${errno}` });
  }

  finished(cookie: bigint): void {
    const pending = this.#find(cookie);
    const { into, done, extentsDone } = pending.awaiting;
    if (pending.errno === 0 && into !== undefined && pending.contiguous !== into.length) {
      throw new ReplyError(
        `a request for ${into.length} bytes was answered with ${pending.contiguous} in a row`,
      );
    }
    this.#pending.delete(cookie);
    done?.complete(pending.errno);
    if (extentsDone !== undefined) {
      const errno = pending.errno === 0 && pending.extents === null ? Errno.EIO : pending.errno;
      extentsDone.complete(errno, pending.extents ?? []);
    }
  }

  #find(cookie: bigint): Pending {
    const pending = this.#pending.get(cookie);
    if (pending === undefined) throw new ReplyError(`a reply to request ${cookie}, which is not under way`);
    return pending;
  }
}
