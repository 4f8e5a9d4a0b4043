/** Requests of a client, as they go on the wire. Specification: "Request message". */
import {
  Command,
  CommandFlag,
  EXTENDED_REQUEST_HEADER_LENGTH,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
  REQUEST_HEADER_LENGTH,
} from '../constants.ts';

/** @param offset, length in bytes. @param flags CommandFlag bits. A WRITE's payload follows the header. */
export function encodeRequest(
  type: number,
  flags: number,
  cookie: bigint,
  offset: number,
  length: number,
): Buffer {
  const header = Buffer.allocUnsafe(REQUEST_HEADER_LENGTH);
  header.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeUInt32BE(length, 24);
  return header;
}

/** The same where EXTENDED_HEADERS were agreed. */
export function encodeExtendedRequest(
  type: number,
  flags: number,
  cookie: bigint,
  offset: number,
  length: number,
): Buffer {
  const header = Buffer.allocUnsafe(EXTENDED_REQUEST_HEADER_LENGTH);
  header.writeUInt32BE(NBD_EXTENDED_REQUEST_MAGIC, 0);
  header.writeUInt16BE(type === Command.WRITE ? flags | CommandFlag.PAYLOAD_LEN : flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeBigUInt64BE(BigInt(length), 24);
  return header;
}
