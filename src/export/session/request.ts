/**
 * One request under way: its fields, where its reply is being built, and the completion that the disk answers
 * to.
 */

import { Command, CommandFlag, HASH_LENGTH, NBD_MAX_PAYLOAD } from '../../nbd/constants.ts';
import type { RequestParser } from '../../nbd/transmission/request-parser.ts';
import type { Answered } from '../../nbd/transmission/server-replies.ts';
import type { Extent } from '../../store/completion.ts';
import type { RequestFields } from './check-request.ts';
import type { Slab } from './replies/slabs.ts';

const REQUEST_COST = 256;

/** What a completed request is handed to. */
export interface RequestOwner {
  finished(request: Request, errno: number, extents: readonly Extent[] | undefined): void;
}

export class Request implements RequestFields, Answered {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** It has been counted by Export.writeBegan. */
  counted = false;
  /** One of the background, which the disk has been asked for. */
  ahead = false;
  /** Of a READ or XNBD_HASH: where its reply is built, from `start` on. */
  slab: Slab | undefined;
  start = 0;
  #completed = false;
  readonly #owner: RequestOwner;

  constructor(owner: RequestOwner, parsed: RequestParser) {
    this.#owner = owner;
    this.type = parsed.type;
    this.flags = parsed.flags;
    this.offset = parsed.offset;
    this.length = parsed.length;
    this.offsetHigh = parsed.offsetHigh;
    this.offsetLow = parsed.offsetLow;
    this.cookieHigh = parsed.cookieHigh;
    this.cookieLow = parsed.cookieLow;
  }

  /** No client waits for it; where that mark was agreed (background-reads.ts). */
  get background(): boolean {
    return (this.flags & CommandFlag.XNBD_BACKGROUND) !== 0;
  }

  /**
   * What it counts for while it is under way, bytes: its payload and what it takes besides. One of the
   * background takes nothing until it is its turn.
   */
  get cost(): number {
    const carries = (this.type === Command.READ && !this.background) || this.type === Command.WRITE;
    return REQUEST_COST + (carries ? Math.min(this.length, NBD_MAX_PAYLOAD) : 0);
  }

  get returnsData(): boolean {
    return this.type === Command.READ || this.type === Command.XNBD_HASH;
  }

  /** Bytes that its answer brings: those of a READ, a digest for XNBD_HASH. */
  get dataLength(): number {
    return this.type === Command.XNBD_HASH ? HASH_LENGTH : this.length;
  }

  /** Once structured replies are agreed it never gets a simple one. */
  get chunked(): boolean {
    return this.returnsData || this.type === Command.BLOCK_STATUS;
  }

  /** Completion and ExtentsCompletion in one. Counts once: a disk may have thrown and answer all the same. */
  complete(errno: number, extents?: readonly Extent[]): void {
    if (this.#completed) return;
    this.#completed = true;
    this.#owner.finished(this, errno, extents);
  }
}
