/** Options as they come from a client, each whole and none absurd. */
import type { Socket } from 'node:net';
import { OPTION_HEADER_LENGTH, OptionReply } from '../nbd/constants.ts';
import { decodeOptionHeader, encodeOptionReply } from '../nbd/handshake/option-framing.ts';
import { readExactly } from './read-exactly.ts';

/** The data of an honest option is far shorter: a name of 4096 bytes and a few contexts. */
const MAX_OPTION_DATA = 64 * 1024;

/** The client broke the protocol or a limit; the connection ends. */
export class BadClient extends Error {}

/** @throws BadClient when it is too long, StreamEnded, Error when its magic is missing. */
export async function readOption(client: Socket): Promise<{ option: number; data: Buffer }> {
  const { option, length } = decodeOptionHeader(await readExactly(client, OPTION_HEADER_LENGTH));
  if (length > MAX_OPTION_DATA) {
    client.write(encodeOptionReply(option, OptionReply.ERR_TOO_BIG, `at most ${MAX_OPTION_DATA} bytes`));
    throw new BadClient(`option ${option} claims ${length} bytes`);
  }
  return { option, data: length === 0 ? Buffer.alloc(0) : await readExactly(client, length) };
}
