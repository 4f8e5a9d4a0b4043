/**
 * Transmission phase, the server's side of reading: request headers and the payloads of WRITE, parsed in
 * place.
 */
import {
  Command,
  CommandFlag,
  EXTENDED_REQUEST_HEADER_LENGTH,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_MAX_PAYLOAD,
  NBD_REQUEST_MAGIC,
  REQUEST_HEADER_LENGTH,
} from '../constants.ts';
import type { ReceiveBuffer } from '../receive-buffer.ts';

const EMPTY = Buffer.alloc(0);

/** The peer broke the protocol so that nothing after it can be understood: the connection must end. */
export class ProtocolError extends Error {}

/**
 * Holds the fields of the request parsed last. The cookie, eight opaque bytes that the reply repeats, is kept
 * as two 32 bit numbers.
 */
export class RequestParser {
  /** EXTENDED_HEADERS were agreed. */
  extended = false;
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  /**
   * Inexact above 2^53, which is past the end of every disk anyway; a reply repeats the exact one, its two
   * halves.
   */
  offset = 0;
  offsetHigh = 0;
  offsetLow = 0;
  /** Bytes; with extended headers inexact above 2^53, which is past the end of every disk. */
  length = 0;
  /** The data of a WRITE, within the receive buffer: valid until the next bytes are received. */
  payload: Buffer = EMPTY;

  /**
   * Parses the next request when it is there as a whole, payload included.
   * @throws ProtocolError on a wrong magic, or a payload of more than NBD_MAX_PAYLOAD bytes.
   */
  next(input: ReceiveBuffer): boolean {
    if (this.extended) return this.#nextExtended(input);
    if (!input.has(REQUEST_HEADER_LENGTH)) return false;
    const { bytes, start } = input;
    const magic = bytes.readUInt32BE(start);
    if (magic !== NBD_REQUEST_MAGIC) {
      throw new ProtocolError(
        `request magic is 0x${magic.toString(16)}, not 0x${NBD_REQUEST_MAGIC.toString(16)}`,
      );
    }
    const type = bytes.readUInt16BE(start + 6);
    const length = bytes.readUInt32BE(start + 24);
    const isWrite = type === Command.WRITE;
    if (isWrite) {
      if (length > NBD_MAX_PAYLOAD) {
        throw new ProtocolError(`WRITE of ${length} bytes is larger than the maximum of ${NBD_MAX_PAYLOAD}`);
      }
      if (!input.has(REQUEST_HEADER_LENGTH + length)) return false;
    }
    this.flags = bytes.readUInt16BE(start + 4);
    this.type = type;
    this.cookieHigh = bytes.readUInt32BE(start + 8);
    this.cookieLow = bytes.readUInt32BE(start + 12);
    this.offsetHigh = bytes.readUInt32BE(start + 16);
    this.offsetLow = bytes.readUInt32BE(start + 20);
    this.offset = this.offsetHigh * 2 ** 32 + this.offsetLow;
    this.length = length;
    const header = start + REQUEST_HEADER_LENGTH;
    this.payload = isWrite ? bytes.subarray(header, header + length) : EMPTY;
    input.consume(REQUEST_HEADER_LENGTH + (isWrite ? length : 0));
    return true;
  }

  /**
   * With extended headers a flag says whether a payload follows; a command that takes none has it skipped,
   * and keeps the flag. A WRITE's data follow always: QEMU 10 sends them without the flag, and qemu-nbd takes
   * them so.
   */
  #nextExtended(input: ReceiveBuffer): boolean {
    if (!input.has(EXTENDED_REQUEST_HEADER_LENGTH)) return false;
    const { bytes, start } = input;
    const magic = bytes.readUInt32BE(start);
    if (magic !== NBD_EXTENDED_REQUEST_MAGIC) {
      throw new ProtocolError(
        `request magic is 0x${magic.toString(16)}, not 0x${NBD_EXTENDED_REQUEST_MAGIC.toString(16)}`,
      );
    }
    const flags = bytes.readUInt16BE(start + 4);
    const type = bytes.readUInt16BE(start + 6);
    const length = bytes.readUInt32BE(start + 24) * 2 ** 32 + bytes.readUInt32BE(start + 28);
    const hasPayload = (flags & CommandFlag.PAYLOAD_LEN) !== 0;
    const isWrite = type === Command.WRITE;
    const payloadLength = isWrite || hasPayload ? length : 0;
    if (payloadLength > NBD_MAX_PAYLOAD) {
      throw new ProtocolError(
        `payload of ${length} bytes (command ${type}) is larger than the maximum of ${NBD_MAX_PAYLOAD}`,
      );
    }
    if (!input.has(EXTENDED_REQUEST_HEADER_LENGTH + payloadLength)) return false;
    this.flags = isWrite ? flags & ~CommandFlag.PAYLOAD_LEN : flags;
    this.type = type;
    // `has` moves bytes only when it returns false.
    this.cookieHigh = bytes.readUInt32BE(start + 8);
    this.cookieLow = bytes.readUInt32BE(start + 12);
    this.offsetHigh = bytes.readUInt32BE(start + 16);
    this.offsetLow = bytes.readUInt32BE(start + 20);
    this.offset = this.offsetHigh * 2 ** 32 + this.offsetLow;
    this.length = length;
    const header = start + EXTENDED_REQUEST_HEADER_LENGTH;
    this.payload = isWrite ? bytes.subarray(header, header + payloadLength) : EMPTY;
    input.consume(EXTENDED_REQUEST_HEADER_LENGTH + payloadLength);
    return true;
  }
}
