/**
 * Transmission phase, the server's side of writing: replies in the style that was agreed, put into a buffer
 * that the caller owns.
 */
import {
  EXTENDED_CHUNK_HEADER_LENGTH,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  ReplyChunk,
  ReplyFlag,
  SIMPLE_REPLY_LENGTH,
  STRUCTURED_CHUNK_HEADER_LENGTH,
} from '../constants.ts';
import type { Extent } from '../extent.ts';
import type { Agreement } from '../handshake/agreement.ts';

/** What a connection has agreed on; each style can do all that those before it can. */
export const ReplyStyle = { SIMPLE: 0, STRUCTURED: 1, EXTENDED: 2 } as const;
export type ReplyStyle = (typeof ReplyStyle)[keyof typeof ReplyStyle];

/** The style that a handshake has agreed on. */
export function replyStyle(agreement: Agreement): ReplyStyle {
  if (agreement.extendedHeaders) return ReplyStyle.EXTENDED;
  return agreement.structuredReplies ? ReplyStyle.STRUCTURED : ReplyStyle.SIMPLE;
}

/**
 * What a reply repeats of its request: the cookie, eight opaque bytes, and the offset; each as its two
 * halves.
 */
export interface Answered {
  cookieHigh: number;
  cookieLow: number;
  offsetHigh: number;
  offsetLow: number;
}

const CHUNK_HEADER = [0, STRUCTURED_CHUNK_HEADER_LENGTH, EXTENDED_CHUNK_HEADER_LENGTH] as const;

const DATA_HEADER = [
  SIMPLE_REPLY_LENGTH,
  STRUCTURED_CHUNK_HEADER_LENGTH + 8,
  EXTENDED_CHUNK_HEADER_LENGTH + 8,
] as const;

/** Bytes before the data of an answer to READ. */
export function dataHeaderLength(style: ReplyStyle): number {
  return DATA_HEADER[style];
}

/** Header of the one reply or chunk that answers a READ; `length` bytes of data follow it. */
export function writeDataHeader(
  into: Buffer,
  at: number,
  style: ReplyStyle,
  request: Answered,
  length: number,
): number {
  if (style === ReplyStyle.SIMPLE) return writeSimpleReply(into, at, request, 0);
  const body = writeChunkHeader(into, at, style, request, ReplyChunk.OFFSET_DATA, 8 + length);
  into.writeUInt32BE(request.offsetHigh, body);
  into.writeUInt32BE(request.offsetLow, body + 4);
  return DATA_HEADER[style];
}

/**
 * The reply without data: success, or an error.
 * @param chunk of structured replies: a command that may never get a simple one (READ, BLOCK_STATUS)
 */
export function writeStatus(
  into: Buffer,
  at: number,
  style: ReplyStyle,
  request: Answered,
  errno: number,
  chunk: boolean,
): number {
  if (style === ReplyStyle.SIMPLE || (style === ReplyStyle.STRUCTURED && !chunk))
    return writeSimpleReply(into, at, request, errno);
  if (errno === 0) return writeChunkHeader(into, at, style, request, ReplyChunk.NONE, 0) - at;
  const body = writeChunkHeader(into, at, style, request, ReplyChunk.ERROR, 6);
  into.writeUInt32BE(errno, body);
  into.writeUInt16BE(0, body + 4);
  return body + 6 - at;
}

/** @returns how many bytes `writeStatus` will write. */
export function statusLength(style: ReplyStyle, errno: number, chunk: boolean): number {
  if (style === ReplyStyle.SIMPLE || (style === ReplyStyle.STRUCTURED && !chunk)) return SIMPLE_REPLY_LENGTH;
  return CHUNK_HEADER[style] + (errno === 0 ? 0 : 6);
}

export function blockStatusLength(style: ReplyStyle, extents: number): number {
  return CHUNK_HEADER[style] + (style === ReplyStyle.EXTENDED ? 8 + 16 * extents : 4 + 8 * extents);
}

/** @param extents of fewer than 2^32 bytes each, unless headers are extended. */
export function writeBlockStatus(
  into: Buffer,
  at: number,
  style: ReplyStyle,
  request: Answered,
  contextId: number,
  extents: readonly Extent[],
): number {
  const length = blockStatusLength(style, extents.length);
  if (style === ReplyStyle.EXTENDED) {
    const bytes = length - EXTENDED_CHUNK_HEADER_LENGTH;
    let position = writeChunkHeader(into, at, style, request, ReplyChunk.BLOCK_STATUS_EXT, bytes);
    into.writeUInt32BE(contextId, position);
    into.writeUInt32BE(extents.length, position + 4);
    position += 8;
    for (const extent of extents) {
      writeUInt64(into, position, extent.length);
      writeUInt64(into, position + 8, extent.flags);
      position += 16;
    }
    return length;
  }
  const bytes = length - STRUCTURED_CHUNK_HEADER_LENGTH;
  let position = writeChunkHeader(into, at, style, request, ReplyChunk.BLOCK_STATUS, bytes);
  into.writeUInt32BE(contextId, position);
  position += 4;
  for (const extent of extents) {
    into.writeUInt32BE(extent.length, position);
    into.writeUInt32BE(extent.flags, position + 4);
    position += 8;
  }
  return length;
}

function writeSimpleReply(into: Buffer, at: number, request: Answered, errno: number): number {
  into.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  into.writeUInt32BE(errno, at + 4);
  into.writeUInt32BE(request.cookieHigh, at + 8);
  into.writeUInt32BE(request.cookieLow, at + 12);
  return SIMPLE_REPLY_LENGTH;
}

/**
 * Each reply that this server sends is one chunk, so every chunk is the last. @returns where its payload
 * begins
 */
function writeChunkHeader(
  into: Buffer,
  at: number,
  style: ReplyStyle,
  request: Answered,
  type: number,
  length: number,
): number {
  const extended = style === ReplyStyle.EXTENDED;
  into.writeUInt32BE(extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC, at);
  into.writeUInt16BE(ReplyFlag.DONE, at + 4);
  into.writeUInt16BE(type, at + 6);
  into.writeUInt32BE(request.cookieHigh, at + 8);
  into.writeUInt32BE(request.cookieLow, at + 12);
  if (!extended) {
    into.writeUInt32BE(length, at + 16);
    return at + STRUCTURED_CHUNK_HEADER_LENGTH;
  }
  into.writeUInt32BE(request.offsetHigh, at + 16);
  into.writeUInt32BE(request.offsetLow, at + 20);
  writeUInt64(into, at + 24, length);
  return at + EXTENDED_CHUNK_HEADER_LENGTH;
}

/** @param value below 2^53 */
function writeUInt64(into: Buffer, at: number, value: number): void {
  into.writeUInt32BE(Math.floor(value / 2 ** 32), at);
  into.writeUInt32BE(value % 2 ** 32, at + 4);
}
