/**
 * One client's visit: the gateway is its NBD server until the client names an export, and a pipe to that
 * export from then on.
 *
 * Options that come before say nothing about an export (LIST, STRUCTURED_REPLY and the like) and are answered
 * here. The first option that names one (GO, INFO, EXPORT_NAME, the meta contexts, XNBD_ATTACH) makes the
 * gateway connect to it, repeat there what was agreed so far (client flags, STRUCTURED_REPLY or
 * EXTENDED_HEADERS), swallow those answers, hand over the option as it came, and step aside: the export
 * answers it and whatever follows. So the gateway knows nothing of commands, sizes or leases, and a new
 * option of the exports needs no change here.
 *
 * Where TLS is required, secure-visit.ts comes before all of this.
 */
import type { Socket } from 'node:net';
import { Recurring } from '../log/recurring.ts';
import {
  HandshakeFlag,
  NBD_MAX_STRING,
  OPTION_REPLY_HEADER_LENGTH,
  Option,
  OptionReply,
} from '../nbd/constants.ts';
import { decodeAttachRequest } from '../nbd/handshake/attach.ts';
import {
  CLIENT_FLAGS_LENGTH,
  decodeOptionReplyHeader,
  encodeGreeting,
  encodeListed,
  encodeOption,
  encodeOptionReply,
  exportNameIn,
  HANDSHAKE_FLAGS,
} from '../nbd/handshake/option-framing.ts';
import { encodePeer, type Peer } from '../nbd/handshake/peer.ts';
import type { TlsParty } from '../pki/tls.ts';
import {
  dialExport,
  type LocalExports,
  listExports,
  nameFor,
  RetiredExport,
  SleepingExport,
  UnknownExport,
  VoidLease,
} from './local-exports.ts';
import { readExactly } from './read-exactly.ts';
import { BadClient, readOption } from './read-option.ts';
import { secure } from './secure-visit.ts';
import type { Visitor } from './transport.ts';

/** An honest client needs a handful. */
const MAX_OPTIONS = 64;

const refusals = new Recurring('warning');

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
 * @throws BadClient, TlsRefused, StreamEnded, or Error when the export failed.
 */
export async function receive(
  visitor: Visitor,
  exports: LocalExports,
  tls: TlsParty | null,
): Promise<Named | null> {
  visitor.stream.write(encodeGreeting());
  const clientFlags = (await readExactly(visitor.stream, CLIENT_FLAGS_LENGTH)).readUInt32BE(0);
  if ((clientFlags & ~HANDSHAKE_FLAGS) !== 0) {
    throw new BadClient(`client flags 0x${clientFlags.toString(16)} are unknown`);
  }
  if (tls !== null && !(await secure(visitor, tls))) return null;
  // Only now, so that nothing from before TLS is left: what is agreed, and the stream that it is agreed on.
  const client = visitor.stream;
  const agreed: Agreed = { clientFlags, replies: null };
  for (let count = 0; count < MAX_OPTIONS; count++) {
    const { option, data } = await readOption(client);
    if (option === Option.ABORT) {
      client.end(encodeOptionReply(option, OptionReply.ACK));
      return null;
    }
    if (option !== Option.EXPORT_NAME && (agreed.clientFlags & HandshakeFlag.FIXED_NEWSTYLE) === 0) {
      throw new BadClient(`option ${option} came from a client that knows EXPORT_NAME only`);
    }
    const named = await answer(visitor, exports, agreed, option, data);
    if (named !== null) return named;
  }
  throw new BadClient(`${MAX_OPTIONS} options, and none named an export`);
}

/** Answers one option, or hands it to the export that it names. */
async function answer(
  visitor: Visitor,
  exports: LocalExports,
  agreed: Agreed,
  option: number,
  data: Buffer,
): Promise<Named | null> {
  const client = visitor.stream;
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
      const attach = option === Option.XNBD_ATTACH ? decodeAttachRequest(data) : undefined;
      if (attach !== undefined) name = nameFor(exports, attach);
      const stream = await dialExport(exports, name, attach);
      await handOver(stream, name, { agreed, peer: visitor }, encodeOption(option, data));
      return { name, stream };
    } catch (error) {
      // EXPORT_NAME has no way to say no but to hang up.
      if (option === Option.EXPORT_NAME) throw error;
      if (error instanceof UnknownExport) return reply(OptionReply.ERR_UNKNOWN, error.message);
      if (error instanceof VoidLease) return reply(OptionReply.XNBD_ERR_VOID, error.message);
      if (error instanceof SleepingExport) return reply(OptionReply.ERR_SHUTDOWN, error.message);
      if (error instanceof RetiredExport) {
        const attaches = option === Option.XNBD_ATTACH;
        return reply(attaches ? OptionReply.XNBD_ERR_RETIRED : OptionReply.ERR_POLICY, error.message);
      }
      refusals.met((error as Error).message, {
        fields: { id: 'peer-refused', export: name, peer: visitor.who },
      });
      return reply(OptionReply.ERR_PLATFORM, (error as Error).message);
    }
  }
  switch (option) {
    case Option.LIST:
      if (data.length > 0) return reply(OptionReply.ERR_INVALID, 'LIST takes no data');
      for (const each of await listExports(exports.run)) client.write(encodeListed(each));
      return reply(OptionReply.ACK);
    case Option.STRUCTURED_REPLY:
    case Option.EXTENDED_HEADERS:
      if (data.length > 0) return reply(OptionReply.ERR_INVALID, `option ${option} takes no data`);
      if (agreed.replies === Option.EXTENDED_HEADERS)
        return reply(OptionReply.ERR_INVALID, 'extended headers are agreed already');
      agreed.replies = option;
      return reply(OptionReply.ACK);
    default:
      // STARTTLS is here, too: there is no TLS, or it has begun.
      return reply(OptionReply.ERR_UNSUP);
  }
}

/**
 * Brings a connection to the export to where the client is. The export is told first which peer this is; one
 * of an earlier release does not know that option, and goes on without.
 */
async function handOver(
  stream: Socket,
  name: string,
  { agreed, peer }: { agreed: Agreed; peer: Peer },
  option: Buffer,
): Promise<void> {
  try {
    const flags = Buffer.alloc(CLIENT_FLAGS_LENGTH);
    // Our own option needs an answer, which a client of the older newstyle would not get.
    flags.writeUInt32BE(agreed.clientFlags | HandshakeFlag.FIXED_NEWSTYLE);
    stream.write(flags);
    const answer = await said(stream, Option.XNBD_PEER, encodePeer(peer));
    if (answer !== OptionReply.ACK && answer !== OptionReply.ERR_UNSUP)
      throw new Error(`export ${name} refuses the gateway's word of its visitor (answer ${answer})`);
    if (agreed.replies !== null && (await said(stream, agreed.replies)) !== OptionReply.ACK)
      throw new Error(`export ${name} refuses option ${agreed.replies}`);
    stream.write(option);
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

/** Says one option to an export. @returns the type of its answer */
async function said(stream: Socket, option: number, data: Buffer = Buffer.alloc(0)): Promise<number> {
  stream.write(encodeOption(option, data));
  const { type, length } = decodeOptionReplyHeader(await readExactly(stream, OPTION_REPLY_HEADER_LENGTH));
  if (length > NBD_MAX_STRING) throw new Error(`the export answers option ${option} with ${length} bytes`);
  if (length > 0) await readExactly(stream, length);
  return type;
}
