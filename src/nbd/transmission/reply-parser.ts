/**
 * Replies of a server in the transmission phase: bytes in, calls on a {@link ReplyReceiver} out. No I/O.
 *
 * Payloads of READ go straight from the received chunk into the buffer of the request. Nothing that the
 * peer says is trusted: an unknown cookie, a length past the request or a chunk of the wrong kind throws
 * {@link ReplyError}, and the connection is of no more use.
 *
 * Specification: "Simple reply message", "Structured reply chunk message", "Extended reply chunk message".
 */
import type { ByteCoroutine } from '../byte-coroutine.ts';
import {
  AllocationFlag,
  Errno,
  EXTENDED_CHUNK_HEADER_LENGTH,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_MAX_PAYLOAD,
  NBD_MAX_STRING,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  ReplyChunk,
  ReplyFlag,
  SIMPLE_REPLY_LENGTH,
  STRUCTURED_CHUNK_HEADER_LENGTH,
} from '../constants.ts';
import type { Extent } from '../extent.ts';

export class ReplyError extends Error {}

/**
 * The owner of the requests. A cookie is what the request carried. Each method throws ReplyError for a reply
 * that does not fit.
 */
export interface ReplyReceiver {
  /** An extended header repeats the offset of its request. */
  repeats(cookie: bigint, offset: bigint): void;
  /** Where the payload of a simple reply goes: the whole buffer of a READ; null for other requests. */
  simplePayload(cookie: bigint): Buffer | null;
  /** Where `length` bytes of a READ at the disk's `offset` go. */
  dataTarget(cookie: bigint, offset: number, length: number): Buffer;
  /** Called before the extents are received, as they may be many. */
  wantsExtents(cookie: bigint): void;
  extents(cookie: bigint, context: number, extents: Extent[]): void;
  /** The request has failed; it is over only with `finished`. */
  failed(cookie: bigint, errno: number, message: string): void;
  finished(cookie: bigint): void;
}

/** "A server SHOULD NOT send more than 2^20 status descriptors in a single chunk." */
const MAX_EXTENTS = 2 ** 20;
/** No chunk of any kind is longer; each kind has a limit of its own besides. */
const MAX_EXTENDED_LENGTH = BigInt(NBD_MAX_PAYLOAD + 8);
const KNOWN_ALLOCATION = AllocationFlag.HOLE | AllocationFlag.ZERO;

/** What the server may send, as agreed. */
export interface AgreedReplies {
  structured: boolean;
  extended: boolean;
}

export function* parseReplies(agreed: AgreedReplies, receiver: ReplyReceiver): ByteCoroutine<never> {
  const { structured, extended } = agreed;
  while (true) {
    const magic = (yield 4).readUInt32BE(0);
    if (extended) {
      if (magic !== NBD_EXTENDED_REPLY_MAGIC) throw beginsWrongly(magic);
      yield* extendedChunk(receiver);
    } else if (magic === NBD_SIMPLE_REPLY_MAGIC) yield* simpleReply(structured, receiver);
    else if (magic === NBD_STRUCTURED_REPLY_MAGIC && structured) yield* structuredChunk(receiver);
    else throw beginsWrongly(magic);
  }
}

function beginsWrongly(magic: number): ReplyError {
  return new ReplyError(`a reply begins with 0x${magic.toString(16)}`);
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
  yield* chunk(flags, type, cookie, header.readUInt32BE(12), receiver);
}

function* extendedChunk(receiver: ReplyReceiver): ByteCoroutine<void> {
  const header = yield EXTENDED_CHUNK_HEADER_LENGTH - 4;
  const flags = header.readUInt16BE(0);
  const type = header.readUInt16BE(2);
  const cookie = header.readBigUInt64BE(4);
  const offset = header.readBigUInt64BE(12);
  const length = header.readBigUInt64BE(20);
  receiver.repeats(cookie, offset);
  if (length > MAX_EXTENDED_LENGTH) throw new ReplyError(`a chunk claims ${length} bytes`);
  yield* chunk(flags, type, cookie, Number(length), receiver);
}

function* chunk(
  flags: number,
  type: number,
  cookie: bigint,
  length: number,
  receiver: ReplyReceiver,
): ByteCoroutine<void> {
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
      if (length < 12 || length > 4 + 8 * MAX_EXTENTS || length % 8 !== 4) {
        throw new ReplyError(`a block status chunk claims ${length} bytes`);
      }
      receiver.wantsExtents(cookie);
      const body = yield length;
      receiver.extents(cookie, body.readUInt32BE(0), readExtents(body));
      break;
    }
    case ReplyChunk.BLOCK_STATUS_EXT: {
      if (length < 24 || length > 8 + 16 * MAX_EXTENTS || length % 16 !== 8) {
        throw new ReplyError(`an extended block status chunk claims ${length} bytes`);
      }
      receiver.wantsExtents(cookie);
      const body = yield length;
      receiver.extents(cookie, body.readUInt32BE(0), readExtendedExtents(body));
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
    // Flags that are not known say nothing (CVE-2023-5871 was a client that died of them).
    extents.push({ length, flags: body.readUInt32BE(at + 4) & KNOWN_ALLOCATION });
  }
  return extents;
}

function readExtendedExtents(body: Buffer): Extent[] {
  const count = body.readUInt32BE(4);
  if (body.length !== 8 + 16 * count)
    throw new ReplyError(`${count} extents are announced in ${body.length} bytes`);
  const extents: Extent[] = [];
  for (let at = 8; at < body.length; at += 16) {
    const length = body.readBigUInt64BE(at);
    if (length === 0n || length > BigInt(Number.MAX_SAFE_INTEGER))
      throw new ReplyError(`an extent has a length of ${length} bytes`);
    extents.push({ length: Number(length), flags: body.readUInt32BE(at + 12) & KNOWN_ALLOCATION });
  }
  return extents;
}

function readOffset(body: Buffer): number {
  const offset = body.readBigUInt64BE(0);
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) throw new ReplyError(`a chunk lies at offset ${offset}`);
  return Number(offset);
}
