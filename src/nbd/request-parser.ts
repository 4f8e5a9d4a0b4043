/** Transmission phase, the server's side of reading: request headers and the payloads of WRITE, parsed in place. */
import { Command, NBD_MAX_PAYLOAD, NBD_REQUEST_MAGIC, REQUEST_HEADER_LENGTH } from './constants.ts';
import type { ReceiveBuffer } from './receive-buffer.ts';

const EMPTY = Buffer.alloc(0);

/** The peer broke the protocol so that nothing after it can be understood: the connection must end. */
export class ProtocolError extends Error {}

/**
 * Holds the fields of the request parsed last. The cookie, eight opaque bytes that the reply repeats, is kept as two 32 bit numbers.
 */
export class RequestParser {
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  /** Inexact above 2^53, which is past the end of every disk anyway. */
  offset = 0;
  length = 0;
  /** The data of a WRITE, within the receive buffer: valid until the next bytes are received. */
  payload: Buffer = EMPTY;

  /**
   * Parses the next request when it is there as a whole, payload included.
   * @throws ProtocolError on a wrong magic, or a WRITE of more than NBD_MAX_PAYLOAD bytes.
   */
  next(input: ReceiveBuffer): boolean {
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
    this.offset = bytes.readUInt32BE(start + 16) * 2 ** 32 + bytes.readUInt32BE(start + 20);
    this.length = length;
    const header = start + REQUEST_HEADER_LENGTH;
    this.payload = isWrite ? bytes.subarray(header, header + length) : EMPTY;
    input.consume(REQUEST_HEADER_LENGTH + (isWrite ? length : 0));
    return true;
  }
}
