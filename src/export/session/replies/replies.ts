/** Replies without data, in the style that a connection has agreed: an error or success, and extents. */
import { Errno } from '../../../nbd/constants.ts';
import { ALLOCATION_CONTEXT_ID } from '../../../nbd/handshake/server-handshake.ts';
import {
  blockStatusLength,
  type ReplyStyle,
  statusLength,
  writeBlockStatus,
  writeStatus,
} from '../../../nbd/transmission/server-replies.ts';
import type { Extent } from '../../../store/completion.ts';
import type { Request } from '../request.ts';
import type { ReplyWriter } from './reply-writer.ts';

export class Replies {
  readonly #writer: ReplyWriter;
  readonly #style: ReplyStyle;

  constructor(writer: ReplyWriter, style: ReplyStyle) {
    this.#writer = writer;
    this.#style = style;
  }

  /** 0 is success. */
  status(request: Request, errno: number): void {
    const length = statusLength(this.#style, errno, request.chunked);
    const slab = this.#writer.reserve(length);
    const start = slab.used - length;
    writeStatus(slab.bytes, start, this.#style, request, errno, request.chunked);
    this.#writer.send(slab, start, start + length);
  }

  /** A disk that has nothing to say is answered for with EIO. */
  extents(request: Request, extents: readonly Extent[]): void {
    if (extents.length === 0) {
      this.status(request, Errno.EIO);
      return;
    }
    const length = blockStatusLength(this.#style, extents.length);
    const slab = this.#writer.reserve(length);
    const start = slab.used - length;
    writeBlockStatus(slab.bytes, start, this.#style, request, ALLOCATION_CONTEXT_ID, extents);
    this.#writer.send(slab, start, start + length);
  }
}
