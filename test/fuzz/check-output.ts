/**
 * What a server has sent, read by somebody who knows the formats only: every message must be whole and of a
 * known kind.
 */
import {
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_MAX_PAYLOAD,
  NBD_OPTION_REPLY_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from '../../src/nbd/constants.ts';

/**
 * @throws Error at the first message that is none. Data of simple replies cannot be told from messages: there
 * it gives up.
 */
export function checkServerOutput(bytes: Buffer): void {
  let at = 18;
  while (at + 20 <= bytes.length && bytes.readBigUInt64BE(at) === NBD_OPTION_REPLY_MAGIC) {
    at += 20 + bytes.readUInt32BE(at + 16);
  }
  while (at + 16 <= bytes.length) {
    const magic = bytes.readUInt32BE(at);
    if (magic === NBD_STRUCTURED_REPLY_MAGIC) at += 20 + limited(bytes.readUInt32BE(at + 16));
    else if (magic === NBD_EXTENDED_REPLY_MAGIC) at += 32 + limited(Number(bytes.readBigUInt64BE(at + 24)));
    else if (magic === NBD_SIMPLE_REPLY_MAGIC) at += 16;
    // After EXPORT_NAME, or in the data of a simple reply.
    else return;
  }
}

function limited(length: number): number {
  if (length > NBD_MAX_PAYLOAD + 8) throw new Error(`the server sends a chunk of ${length} bytes`);
  return length;
}
