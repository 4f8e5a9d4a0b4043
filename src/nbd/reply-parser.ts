/**
 * Replies of a server in the transmission phase: bytes in, calls on a {@link ReplyReceiver} out. No I/O.
 *
 * Payloads of READ go straight from the received chunk into the buffer of whoever asked. Nothing that the peer says is trusted: an
 * unknown cookie, a length past the request or a chunk of the wrong kind throws {@link ReplyError}, and the connection is of no
 * more use.
 *
 * Specification: "Simple reply message", "Structured reply chunk message".
 */
import type { ByteCoroutine } from './byte-coroutine.ts';
import {
  Errno,
  NBD_MAX_STRING,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  ReplyChunk,
  ReplyFlag,
  SIMPLE_REPLY_LENGTH,
  STRUCTURED_CHUNK_HEADER_LENGTH,
} from './constants.ts';
import type { Extent } from './extent.ts';

export class ReplyError extends Error {}

/** Whoever has the requests. A cookie is what the request carried. Each method throws ReplyError for a reply that does not fit. */
export interface ReplyReceiver {
  /** Where the payload of a simple reply goes: the whole buffer of a READ; null for other requests. */
  simplePayload(cookie: bigint): Buffer | null;
  /** Where `length` bytes of a READ at the disk's `offset` go. */
  dataTarget(cookie: bigint, offset: number, length: number): Buffer;
  extents(cookie: bigint, context: number, extents: Extent[]): void;
  /** The request has failed; it is over only with `finished`. */
  failed(cookie: bigint, errno: number, message: string): void;
  finished(cookie: bigint): void;
}

/** The largest answer to BLOCK_STATUS that we take: 128 Ki extents. */
const MAX_EXTENTS_LENGTH = 4 + 8 * 128 * 1024;

export function* parseReplies(structured: boolean, receiver: ReplyReceiver): ByteCoroutine<never> {
  while (true) {
    const magic = (yield 4).readUInt32BE(0);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) yield* simpleReply(structured, receiver);
    else if (magic === NBD_STRUCTURED_REPLY_MAGIC && structured) yield* structuredChunk(receiver);
    else throw new ReplyError(`a reply begins with 0x${magic.toString(16)}`);
  }
}

function* simpleReply(structured: boolean, receiver: ReplyReceiver): ByteCoroutine<void> {
  const header = yield SIMPLE_REPLY_LENGTH - 4;
  const errno = header.readUInt32BE(0);
  const cookie = header.readBigUInt64BE(4);
  const payload = receiver.simplePayload(cookie);
  if (payload !== null && structured)
    throw new ReplyError('a READ got a simple reply after structured replies were agreed');
  if (errno !== 0) receiver.failed(cookie, errno, '');
  else if (payload !== null) yield payload;
  receiver.finished(cookie);
}

function* structuredChunk(receiver: ReplyReceiver): ByteCoroutine<void> {
  const header = yield STRUCTURED_CHUNK_HEADER_LENGTH - 4;
  const flags = header.readUInt16BE(0);
  const type = header.readUInt16BE(2);
  const cookie = header.readBigUInt64BE(4);
  const length = header.readUInt32BE(12);
  switch (type) {
    case ReplyChunk.NONE:
      if (length !== 0) throw new ReplyError(`an empty chunk claims ${length} bytes`);
      break;
    case ReplyChunk.OFFSET_DATA: {
      if (length <= 8) throw new ReplyError(`a data chunk of ${length} bytes carries no data`);
      const offset = readOffset(yield 8);
      yield receiver.dataTarget(cookie, offset, length - 8);
      break;
    }
    case ReplyChunk.OFFSET_HOLE: {
      if (length !== 12) throw new ReplyError(`a hole chunk of ${length} bytes, not 12`);
      const body = yield 12;
      receiver.dataTarget(cookie, readOffset(body), body.readUInt32BE(8)).fill(0);
      break;
    }
    case ReplyChunk.BLOCK_STATUS: {
      if (length < 12 || length > MAX_EXTENTS_LENGTH || length % 8 !== 4) {
        throw new ReplyError(`a block status chunk claims ${length} bytes`);
      }
      const body = yield length;
      receiver.extents(cookie, body.readUInt32BE(0), readExtents(body));
      break;
    }
    default:
      if (type < 2 ** 15) throw new ReplyError(`a chunk of unknown type ${type}`);
      yield* errorChunk(cookie, length, receiver);
  }
  if ((flags & ReplyFlag.DONE) !== 0) receiver.finished(cookie);
}

function* errorChunk(cookie: bigint, length: number, receiver: ReplyReceiver): ByteCoroutine<void> {
  if (length < 6 || length > NBD_MAX_STRING + 14)
    throw new ReplyError(`an error chunk claims ${length} bytes`);
  const body = yield length;
  const errno = body.readUInt32BE(0);
  const messageLength = Math.min(body.readUInt16BE(4), length - 6);
  const message = body.toString('utf8', 6, 6 + messageLength).replaceAll(/[^\x20-\x7e]+/g, ' ');
  receiver.failed(cookie, errno === 0 ? Errno.EIO : errno, message);
}

function readExtents(body: Buffer): Extent[] {
  const extents: Extent[] = [];
  for (let at = 4; at < body.length; at += 8) {
    const length = body.readUInt32BE(at);
    if (length === 0) throw new ReplyError('an extent has no length');
    extents.push({ length, flags: body.readUInt32BE(at + 4) });
  }
  return extents;
}

function readOffset(body: Buffer): number {
  const offset = body.readBigUInt64BE(0);
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) throw new ReplyError(`a chunk lies at offset ${offset}`);
  return Number(offset);
}
