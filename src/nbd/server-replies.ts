/** Transmission phase, the server's side of writing: reply headers, put into a buffer that the caller owns. */
import {
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  ReplyChunk,
  ReplyFlag,
  SIMPLE_REPLY_LENGTH,
  STRUCTURED_CHUNK_HEADER_LENGTH,
} from './constants.ts';

/** Bytes before the data in a chunk OFFSET_DATA. */
export const OFFSET_DATA_HEADER_LENGTH = STRUCTURED_CHUNK_HEADER_LENGTH + 8;
/** Bytes of an error chunk without a text. */
export const ERROR_CHUNK_LENGTH = STRUCTURED_CHUNK_HEADER_LENGTH + 6;

/** The eight bytes of a request that its reply repeats. */
export interface Cookie {
  cookieHigh: number;
  cookieLow: number;
}

export function writeSimpleReply(into: Buffer, at: number, cookie: Cookie, errno: number): number {
  into.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  into.writeUInt32BE(errno, at + 4);
  into.writeUInt32BE(cookie.cookieHigh, at + 8);
  into.writeUInt32BE(cookie.cookieLow, at + 12);
  return SIMPLE_REPLY_LENGTH;
}

/** Header of the one chunk that answers a READ; `length` bytes of data follow it. */
export function writeOffsetDataHeader(
  into: Buffer,
  at: number,
  cookie: Cookie,
  offset: number,
  length: number,
): number {
  writeChunkHeader(into, at, cookie, ReplyChunk.OFFSET_DATA, 8 + length);
  into.writeUInt32BE(Math.floor(offset / 2 ** 32), at + 20);
  into.writeUInt32BE(offset % 2 ** 32, at + 24);
  return OFFSET_DATA_HEADER_LENGTH;
}

export function writeErrorChunk(into: Buffer, at: number, cookie: Cookie, errno: number): number {
  writeChunkHeader(into, at, cookie, ReplyChunk.ERROR, 6);
  into.writeUInt32BE(errno, at + 20);
  into.writeUInt16BE(0, at + 24);
  return ERROR_CHUNK_LENGTH;
}

export function blockStatusLength(extents: number): number {
  return STRUCTURED_CHUNK_HEADER_LENGTH + 4 + 8 * extents;
}

export function writeBlockStatus(
  into: Buffer,
  at: number,
  cookie: Cookie,
  contextId: number,
  extents: readonly { length: number; flags: number }[],
): number {
  writeChunkHeader(into, at, cookie, ReplyChunk.BLOCK_STATUS, 4 + 8 * extents.length);
  into.writeUInt32BE(contextId, at + 20);
  let position = at + 24;
  for (const extent of extents) {
    into.writeUInt32BE(extent.length, position);
    into.writeUInt32BE(extent.flags, position + 4);
    position += 8;
  }
  return position - at;
}

/** Each reply that this server sends is one chunk, so every chunk is the last. */
function writeChunkHeader(into: Buffer, at: number, cookie: Cookie, type: number, length: number): void {
  into.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, at);
  into.writeUInt16BE(ReplyFlag.DONE, at + 4);
  into.writeUInt16BE(type, at + 6);
  into.writeUInt32BE(cookie.cookieHigh, at + 8);
  into.writeUInt32BE(cookie.cookieLow, at + 12);
  into.writeUInt32BE(length, at + 16);
}
