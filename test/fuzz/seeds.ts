/**
 * Valid dialogues, message by message: what a client sends to a server, and what a server sends to a client.
 */

import {
  Command,
  CommandFlag,
  Info,
  NBD_MAGIC,
  NBD_OLDSTYLE_MAGIC,
  Option,
  OptionReply,
} from '../../src/nbd/constants.ts';
import { encodeAttached, encodeAttachRequest } from '../../src/nbd/handshake/attach.ts';
import { encodeFeatures, FEATURES } from '../../src/nbd/handshake/features.ts';
import { encodeGreeting, encodeOption, encodeOptionReply } from '../../src/nbd/handshake/option-framing.ts';
import { encodePeer } from '../../src/nbd/handshake/peer.ts';
import { encodeExtendedRequest, encodeRequest } from '../../src/nbd/transmission/request-encoder.ts';
import {
  type Answered,
  blockStatusLength,
  dataHeaderLength,
  ReplyStyle,
  statusLength,
  writeBlockStatus,
  writeDataHeader,
  writeStatus,
} from '../../src/nbd/transmission/server-replies.ts';

export interface Seed {
  /** Who is under fire. */
  side: 'server' | 'client';
  messages: Buffer[];
}

const lease = '11111111-2222-4333-8444-555555555555';
const NOTHING = Buffer.alloc(0);
const styles = [ReplyStyle.SIMPLE, ReplyStyle.STRUCTURED, ReplyStyle.EXTENDED] as const;

export function seeds(): Seed[] {
  return [
    ...styles.map((style): Seed => ({ side: 'server', messages: clientSays(style, false) })),
    { side: 'server', messages: clientSays(ReplyStyle.STRUCTURED, true) },
    { side: 'server', messages: broughtByGateway() },
    { side: 'server', messages: exportName() },
    ...styles.map(
      (style): Seed => ({ side: 'client', messages: serverSays(style, style !== ReplyStyle.SIMPLE) }),
    ),
    { side: 'client', messages: serverSays(ReplyStyle.STRUCTURED, false) },
    { side: 'client', messages: oldstyle() },
  ];
}

function clientSays(style: ReplyStyle, attached: boolean): Buffer[] {
  const options = [encodeOption(Option.LIST, NOTHING), encodeOption(99, Buffer.from('unknown'))];
  if (style === ReplyStyle.STRUCTURED) options.push(encodeOption(Option.STRUCTURED_REPLY, NOTHING));
  if (style === ReplyStyle.EXTENDED) options.push(encodeOption(Option.EXTENDED_HEADERS, NOTHING));
  if (attached) {
    const request = { lease, uuid: null, generation: 0, name: 'disk' };
    options.push(encodeOption(Option.XNBD_ATTACH, encodeAttachRequest(request)));
  }
  if (style !== ReplyStyle.SIMPLE) {
    const context = Buffer.concat([text('disk'), uint32(1), text('base:allocation')]);
    options.push(
      encodeOption(Option.LIST_META_CONTEXT, context),
      encodeOption(Option.SET_META_CONTEXT, context),
    );
  }
  const infos = Buffer.concat([text('disk'), uint16(2), uint16(Info.BLOCK_SIZE), uint16(Info.NAME)]);
  options.push(encodeOption(Option.INFO, infos), encodeOption(Option.GO, infos));
  return [uint32(3), ...options, ...requests(style, attached)];
}

/** As a gateway begins: it says whom it brings, first of all. */
function broughtByGateway(): Buffer[] {
  const [flags, ...rest] = clientSays(ReplyStyle.STRUCTURED, true);
  const peer = { identity: 'b.example', who: '192.0.2.1:4711 (b.example)' };
  return [flags!, encodeOption(Option.XNBD_PEER, encodePeer(peer)), ...rest];
}

function exportName(): Buffer[] {
  return [
    uint32(1),
    encodeOption(Option.EXPORT_NAME, Buffer.from('disk')),
    ...requests(ReplyStyle.SIMPLE, false),
  ];
}

function requests(style: ReplyStyle, attached: boolean): Buffer[] {
  const encode = style === ReplyStyle.EXTENDED ? encodeExtendedRequest : encodeRequest;
  const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO } = CommandFlag;
  const data = Buffer.alloc(5000, 'data');
  return [
    Buffer.concat([encode(Command.WRITE, FUA, 1n, 4096, data.length), data]),
    encode(Command.READ, style === ReplyStyle.SIMPLE ? 0 : DF, 2n, 4000, 6000),
    encode(Command.FLUSH, 0, 3n, 0, 0),
    encode(Command.TRIM, 0, 4n, 4096, 8192),
    encode(Command.WRITE_ZEROES, NO_HOLE, 5n, 0, 100_000),
    encode(Command.WRITE_ZEROES, FAST_ZERO, 6n, 512, 512),
    encode(Command.CACHE, 0, 7n, 0, 300_000),
    encode(Command.BLOCK_STATUS, REQ_ONE, 8n, 0, 300_000),
    encode(Command.BLOCK_STATUS, 0, 9n, 512, 200_000),
    ...(attached ? [Command.XNBD_WAIT_GONE, Command.XNBD_TAKEOVER, Command.XNBD_GIVE_BACK] : []).map((type) =>
      encode(type, 0, 10n, 0, 0),
    ),
    encode(Command.READ, 0, 11n, 299_999, 1),
    ...(attached ? [encode(Command.XNBD_HASH, 0, 13n, 4096, 65_536)] : []),
    encode(Command.DISC, 0, 12n, 0, 0),
  ];
}

function serverSays(style: ReplyStyle, contexts: boolean): Buffer[] {
  const messages = [encodeGreeting()];
  const { ACK, ERR_UNSUP } = OptionReply;
  const extended = style === ReplyStyle.EXTENDED;
  const answer = (option: number, yes: boolean) =>
    messages.push(encodeOptionReply(option, yes ? ACK : ERR_UNSUP));
  answer(Option.EXTENDED_HEADERS, extended);
  if (!extended) answer(Option.STRUCTURED_REPLY, style === ReplyStyle.STRUCTURED);
  const identity = encodeAttached({ uuid: lease, generation: 3, fenced: false, size: 300_000 });
  if (contexts) messages.push(encodeOptionReply(Option.XNBD_ATTACH, OptionReply.XNBD_ATTACHED, identity));
  answer(Option.XNBD_ATTACH, contexts);
  if (contexts) {
    const features = encodeFeatures(FEATURES);
    messages.push(encodeOptionReply(Option.XNBD_FEATURES, OptionReply.XNBD_FEATURES, features));
    answer(Option.XNBD_FEATURES, true);
  }
  if (style !== ReplyStyle.SIMPLE) {
    const context = Buffer.concat([uint32(1), Buffer.from('base:allocation')]);
    if (contexts)
      messages.push(encodeOptionReply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, context));
    answer(Option.SET_META_CONTEXT, true);
  }
  const size = Buffer.concat([uint16(Info.EXPORT), uint64(300_000n), uint16(0x5ff)]);
  const blocks = Buffer.concat([uint16(Info.BLOCK_SIZE), uint32(1), uint32(4096), uint32(2 ** 25)]);
  for (const info of [size, blocks]) messages.push(encodeOptionReply(Option.GO, OptionReply.INFO, info));
  answer(Option.GO, true);
  return [...messages, ...replies(style, contexts)];
}

/** To the requests that the client has under way (client.ts). */
function replies(style: ReplyStyle, contexts: boolean): Buffer[] {
  const request = (cookieLow: number, offset: number): Answered => ({
    cookieHigh: 0,
    cookieLow,
    offsetHigh: Math.floor(offset / 2 ** 32),
    offsetLow: offset % 2 ** 32,
  });
  const data = (answered: Answered, length: number) => {
    const reply = Buffer.alloc(dataHeaderLength(style) + length, 'd');
    writeDataHeader(reply, 0, style, answered, length);
    return reply;
  };
  const status = (answered: Answered, errno: number, chunk: boolean) => {
    const reply = Buffer.alloc(statusLength(style, errno, chunk));
    writeStatus(reply, 0, style, answered, errno, chunk);
    return reply;
  };
  const extents = [
    { length: 4096, flags: 0 },
    { length: 8192, flags: 3 },
  ];
  const blockStatus = (answered: Answered) => {
    const reply = Buffer.alloc(blockStatusLength(style, extents.length));
    writeBlockStatus(reply, 0, style, answered, 1, extents);
    return reply;
  };
  return [
    data(request(2, 4096), 3000),
    status(request(6, 0), 0, false),
    data(request(1, 0), 4096),
    ...(contexts ? [blockStatus(request(4, 8192))] : []),
    status(request(5, 0), 22, true),
    status(request(3, 2 ** 40), 5, true),
  ];
}

function oldstyle(): Buffer[] {
  const head = Buffer.concat([uint64(NBD_MAGIC), uint64(NBD_OLDSTYLE_MAGIC), uint64(300_000n), uint32(3)]);
  return [Buffer.concat([head, Buffer.alloc(124)]), ...replies(ReplyStyle.SIMPLE, false)];
}

function text(value: string): Buffer {
  return Buffer.concat([uint32(Buffer.byteLength(value)), Buffer.from(value)]);
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function uint64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}
