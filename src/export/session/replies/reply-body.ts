/**
 * The data of a reply, between "the disk has answered" and "the reply is written". A connection has one body,
 * chosen when its handshake is done: how data travels is agreed there.
 */
import {
  dataHeaderLength,
  type ReplyStyle,
  writeDataHeader,
} from '../../../nbd/transmission/server-replies.ts';
import type { Request } from '../request.ts';
import type { ReplyWriter } from './reply-writer.ts';

export interface ReplyBody {
  /** Space of `request.dataLength` bytes, which the disk fills. */
  space(request: Request): Buffer;
  /** The disk has filled the space: the reply goes on its way. `answered` follows, at once or later. */
  write(request: Request): void;
  /** The disk has failed: the space, if the request had any, is given back. */
  discard(request: Request): void;
  /** The disk threw, and may still write into the space: it is used for nothing else any more. */
  abandon(request: Request): void;
}

export interface BodyOwner {
  /** The reply is queued, and its request no longer under way. */
  answered(request: Request): void;
}

/**
 * Data as it is, built where it is sent from: the disk fills the place behind the header, and nothing is
 * copied.
 */
export class PlainBody implements ReplyBody {
  readonly #owner: BodyOwner;
  readonly #replies: ReplyWriter;
  readonly #style: ReplyStyle;
  readonly #headerLength: number;

  constructor(owner: BodyOwner, replies: ReplyWriter, style: ReplyStyle) {
    this.#owner = owner;
    this.#replies = replies;
    this.#style = style;
    this.#headerLength = dataHeaderLength(style);
  }

  space(request: Request): Buffer {
    const length = request.dataLength;
    const slab = this.#replies.reserve(this.#headerLength + length);
    request.slab = slab;
    request.start = slab.used - length - this.#headerLength;
    return slab.bytes.subarray(slab.used - length, slab.used);
  }

  write(request: Request): void {
    const { slab, start, dataLength: length } = request;
    if (slab !== undefined) {
      const header = writeDataHeader(slab.bytes, start, this.#style, request, length);
      const end = start + header + length;
      if (request.background) this.#replies.sendLater(slab, start, end);
      else this.#replies.send(slab, start, end);
    }
    this.#owner.answered(request);
  }

  discard(request: Request): void {
    if (request.slab !== undefined) this.#replies.release(request.slab);
  }

  abandon(request: Request): void {
    request.slab = undefined;
  }
}
