/**
 * Option haggling as bytes ("Option negotiation" of the specification): the greeting, options, and replies to
 * them. What is said in them is elsewhere; here only where a message begins and ends, and what it carries at
 * which place.
 */

import {
  HandshakeFlag,
  NBD_MAGIC,
  NBD_MAX_STRING,
  NBD_OPTION_REPLY_MAGIC,
  NBD_OPTS_MAGIC,
  OPTION_HEADER_LENGTH,
  OPTION_REPLY_HEADER_LENGTH,
  Option,
  OptionReply,
} from '../constants.ts';
import { decodeAttachRequest } from './attach.ts';

export const GREETING_LENGTH = 18;
export const CLIENT_FLAGS_LENGTH = 4;

/** What a server offers that does all of the newstyle handshake. */
export const HANDSHAKE_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES;

export interface OptionHeader {
  option: number;
  /** Bytes of data that follow; nothing but 32 bits limits it. */
  length: number;
}

export interface OptionReplyHeader {
  option: number;
  type: number;
  /** Bytes of data that follow; nothing but 32 bits limits it. */
  length: number;
}

export function encodeGreeting(): Buffer {
  const greeting = Buffer.alloc(GREETING_LENGTH);
  greeting.writeBigUInt64BE(NBD_MAGIC, 0);
  greeting.writeBigUInt64BE(NBD_OPTS_MAGIC, 8);
  greeting.writeUInt16BE(HANDSHAKE_FLAGS, 16);
  return greeting;
}

/**
 * @returns the server's handshake flags. @throws Error when these are not the first bytes of a newstyle
 * server.
 */
export function decodeGreeting(bytes: Buffer): number {
  if (bytes.readBigUInt64BE(0) !== NBD_MAGIC || bytes.readBigUInt64BE(8) !== NBD_OPTS_MAGIC) {
    throw new Error('the greeting is not that of a newstyle NBD server');
  }
  return bytes.readUInt16BE(16);
}

export function encodeOption(option: number, data: Buffer): Buffer {
  const header = Buffer.alloc(OPTION_HEADER_LENGTH);
  header.writeBigUInt64BE(NBD_OPTS_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

/** @throws Error when the magic is missing. */
export function decodeOptionHeader(bytes: Buffer): OptionHeader {
  if (bytes.readBigUInt64BE(0) !== NBD_OPTS_MAGIC) throw new Error('an option has no magic');
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) };
}

/** @param data of an error: one line for a person. */
export function encodeOptionReply(option: number, type: number, data: Buffer | string = ''): Buffer {
  const body = typeof data === 'string' ? Buffer.from(data) : data;
  const header = Buffer.alloc(OPTION_REPLY_HEADER_LENGTH);
  header.writeBigUInt64BE(NBD_OPTION_REPLY_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(body.length, 16);
  return Buffer.concat([header, body]);
}

/** @throws Error when the magic is missing. */
export function decodeOptionReplyHeader(bytes: Buffer): OptionReplyHeader {
  if (bytes.readBigUInt64BE(0) !== NBD_OPTION_REPLY_MAGIC) throw new Error('an option reply has no magic');
  return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) };
}

/** One answer to LIST. */
export function encodeListed(name: string): Buffer {
  const bytes = Buffer.from(name);
  const data = Buffer.alloc(4 + bytes.length);
  data.writeUInt32BE(bytes.length);
  bytes.copy(data, 4);
  return encodeOptionReply(Option.LIST, OptionReply.SERVER, data);
}

/**
 * The export that an option names, or null for an option that names none.
 * @throws Error when the data is too short for its own lengths, or the name too long.
 */
export function exportNameIn(option: number, data: Buffer): string | null {
  switch (option) {
    case Option.EXPORT_NAME:
      return text(data, 0, data.length);
    case Option.INFO:
    case Option.GO:
    case Option.LIST_META_CONTEXT:
    case Option.SET_META_CONTEXT:
      if (data.length < 4) throw new Error(`${data.length} bytes are too short for an export name`);
      return text(data, 4, data.readUInt32BE(0));
    case Option.XNBD_ATTACH:
      return decodeAttachRequest(data).name;
    default:
      return null;
  }
}

function text(data: Buffer, at: number, length: number): string {
  if (length > NBD_MAX_STRING || at + length > data.length) {
    throw new Error(`an export name claims ${length} bytes in ${data.length} bytes of data`);
  }
  return data.toString('utf8', at, at + length);
}
