/**
 * One client's visit: the gateway is its NBD server until the client names an export, and a pipe to that export from then on.
 *
 * Options that come before say nothing about an export (LIST, STRUCTURED_REPLY and the like) and are answered here. The first option that
 * names one (GO, INFO, EXPORT_NAME, the meta contexts, XNBD_ATTACH) makes the gateway connect to it, repeat there what was agreed so far
 * (client flags, STRUCTURED_REPLY or EXTENDED_HEADERS), swallow those answers, hand over the option as it came, and step aside: the export answers it and
 * whatever follows. So the gateway knows nothing of commands, sizes or leases, and a new option of the exports needs no change here.
 */
import type { Socket } from 'node:net';
import { log } from '../log/log.ts';
import {
  HandshakeFlag,
  OPTION_HEADER_LENGTH,
  OPTION_REPLY_HEADER_LENGTH,
  Option,
  OptionReply,
} from '../nbd/constants.ts';
import {
  CLIENT_FLAGS_LENGTH,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  encodeGreeting,
  encodeListed,
  encodeOption,
  encodeOptionReply,
  exportNameIn,
  HANDSHAKE_FLAGS,
} from '../nbd/option-framing.ts';
import { dialExport, listExports, UnknownExport } from './local-exports.ts';
import { readExactly } from './read-exactly.ts';

/** The data of an honest option is far shorter: a name of 4096 bytes and a few contexts. */
const MAX_OPTION_DATA = 64 * 1024;
/** An honest client needs a handful. */
const MAX_OPTIONS = 64;

/** The client broke the protocol or a limit; the connection ends. */
export class BadClient extends Error {}

interface Agreed {
  clientFlags: number;
  /** STRUCTURED_REPLY or EXTENDED_HEADERS, the last that was agreed; null: neither. */
  replies: number | null;
}

export interface Named {
  name: string;
  /** Connected, and up to date with what the client agreed. */
  stream: Socket;
}

/**
 * Receives a client until it has named an export that exists.
 * @returns null when the client left in an orderly way.
 * @throws BadClient, StreamEnded, or Error when the export failed.
 */
export async function receive(client: Socket, run: string): Promise<Named | null> {
  client.write(encodeGreeting());
  const agreed: Agreed = {
    clientFlags: (await readExactly(client, CLIENT_FLAGS_LENGTH)).readUInt32BE(0),
    replies: null,
  };
  if ((agreed.clientFlags & ~HANDSHAKE_FLAGS) !== 0) {
    throw new BadClient(`client flags 0x${agreed.clientFlags.toString(16)} are unknown`);
  }
  for (let count = 0; count < MAX_OPTIONS; count++) {
    const { option, data } = await readOption(client);
    if (option === Option.ABORT) {
      client.end(encodeOptionReply(option, OptionReply.ACK));
      return null;
    }
    if (option !== Option.EXPORT_NAME && (agreed.clientFlags & HandshakeFlag.FIXED_NEWSTYLE) === 0) {
      throw new BadClient(`option ${option} came from a client that knows EXPORT_NAME only`);
    }
    const named = await answer(client, run, agreed, option, data);
    if (named !== null) return named;
  }
  throw new BadClient(`${MAX_OPTIONS} options, and none named an export`);
}

async function readOption(client: Socket): Promise<{ option: number; data: Buffer }> {
  const { option, length } = decodeOptionHeader(await readExactly(client, OPTION_HEADER_LENGTH));
  if (length > MAX_OPTION_DATA) {
    client.write(encodeOptionReply(option, OptionReply.ERR_TOO_BIG, `at most ${MAX_OPTION_DATA} bytes`));
    throw new BadClient(`option ${option} claims ${length} bytes`);
  }
  return { option, data: length === 0 ? Buffer.alloc(0) : await readExactly(client, length) };
}

/** Answers one option, or hands it to the export that it names. */
async function answer(
  client: Socket,
  run: string,
  agreed: Agreed,
  option: number,
  data: Buffer,
): Promise<Named | null> {
  const reply = (type: number, text = ''): null => {
    client.write(encodeOptionReply(option, type, text));
    return null;
  };
  let name: string | null;
  try {
    name = exportNameIn(option, data);
  } catch (error) {
    if (option === Option.EXPORT_NAME) throw new BadClient((error as Error).message);
    return reply(OptionReply.ERR_INVALID, (error as Error).message);
  }
  if (name !== null) {
    try {
      return { name, stream: await handOver(run, name, agreed, encodeOption(option, data)) };
    } catch (error) {
      // EXPORT_NAME has no way to say no but to hang up.
      if (option === Option.EXPORT_NAME) throw error;
      if (error instanceof UnknownExport) return reply(OptionReply.ERR_UNKNOWN, error.message);
      log.warning((error as Error).message, { export: name });
      return reply(OptionReply.ERR_PLATFORM, (error as Error).message);
    }
  }
  switch (option) {
    case Option.LIST:
      if (data.length > 0) return reply(OptionReply.ERR_INVALID, 'LIST takes no data');
      for (const each of await listExports(run)) client.write(encodeListed(each));
      return reply(OptionReply.ACK);
    case Option.STRUCTURED_REPLY:
    case Option.EXTENDED_HEADERS:
      if (data.length > 0) return reply(OptionReply.ERR_INVALID, `option ${option} takes no data`);
      if (agreed.replies === Option.EXTENDED_HEADERS)
        return reply(OptionReply.ERR_INVALID, 'extended headers are agreed already');
      agreed.replies = option;
      return reply(OptionReply.ACK);
    default:
      return reply(OptionReply.ERR_UNSUP);
  }
}

/** Connects to the export and brings it to where the client is. */
async function handOver(run: string, name: string, agreed: Agreed, option: Buffer): Promise<Socket> {
  const stream = await dialExport(run, name);
  try {
    const flags = Buffer.alloc(CLIENT_FLAGS_LENGTH);
    flags.writeUInt32BE(agreed.clientFlags);
    stream.write(flags);
    if (agreed.replies !== null) {
      stream.write(encodeOption(agreed.replies, Buffer.alloc(0)));
      const { type, length } = decodeOptionReplyHeader(await readExactly(stream, OPTION_REPLY_HEADER_LENGTH));
      if (type !== OptionReply.ACK || length !== 0)
        throw new Error(`export ${name} refuses option ${agreed.replies}`);
    }
    stream.write(option);
    return stream;
  } catch (error) {
    stream.destroy();
    throw error;
  }
}
