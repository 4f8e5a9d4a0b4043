/**
 * The client's side of the newstyle handshake, without any I/O: bytes in, bytes out, and in the end what the
 * server offers.
 *
 * It is written as a coroutine (byte-coroutine.ts), so the code reads in the order of the specification
 * ("Handshake phase"), and the owner of the socket may deliver bytes as they come.
 *
 * Order: greeting, EXTENDED_HEADERS or else STRUCTURED_REPLY, XNBD_ATTACH (if asked for) and XNBD_FEATURES,
 * SET_META_CONTEXT base:allocation, GO; a server that knows no GO gets EXPORT_NAME. Oldstyle servers are
 * refused unless allowed: they agree to nothing, so a man in the middle could pretend to be one to talk us
 * out of what we want (CVE-2019-14842).
 *
 * With TLS it has two halves, and `startTls` is the first: greeting and STARTTLS, in the clear. A server, or
 * a man in the middle, that cannot or will not do TLS ends it there; nothing is ever asked for in the clear.
 * The rest is as without TLS.
 */

import type { ByteCoroutine } from '../byte-coroutine.ts';
import {
  BASE_ALLOCATION,
  HandshakeFlag,
  Info,
  NBD_MAGIC,
  NBD_MAX_PAYLOAD,
  NBD_MAX_STRING,
  NBD_OLDSTYLE_MAGIC,
  NBD_OPTION_REPLY_MAGIC,
  NBD_OPTS_MAGIC,
  OPTION_HEADER_LENGTH,
  OPTION_REPLY_HEADER_LENGTH,
  Option,
  OptionReply,
} from '../constants.ts';
import { printable } from '../printable.ts';
import { type Attached, type AttachRequest, decodeAttached, encodeAttachRequest } from './attach.ts';
import { decodeFeatures, encodeFeatures, FEATURES } from './features.ts';

export interface ClientHandshakeOptions {
  exportName: string;
  /** Attach with this lease; a server that does not know the option is used as plain NBD. */
  attach?: AttachRequest;
  /** Take a server that speaks oldstyle, which has one export without a name. */
  allowOldstyle?: boolean;
  /** What `startTls` returned, on a connection that has been greeted. */
  serverFlags?: number;
}

/** What was agreed. */
export interface ServerOffer {
  /** Bytes. */
  size: number;
  /** TransmissionFlag bits. */
  flags: number;
  structured: boolean;
  /** Headers are extended, and so are replies, which are structured then. */
  extended: boolean;
  /** Id of the context `base:allocation`, or null where BLOCK_STATUS is not to be had. */
  allocationContext: number | null;
  attached: Attached | null;
  /** Feature bits. */
  features: number;
  /** Requests are multiples of this, bytes. */
  minimumBlock: number;
  /** Largest READ or WRITE, bytes. */
  maximumPayload: number;
}

/** The server's answer was no, or not NBD. */
export class HandshakeError extends Error {
  /** The server understood and refused: trying again at once will not help. */
  readonly refused: boolean;
  /** Of an export that is refused: the type of the server's error reply; else 0. */
  readonly answer: number;
  constructor(message: string, refused = false, answer = 0) {
    super(message);
    this.refused = refused;
    this.answer = answer;
  }
}

/** The origin has retired: it was told that every block is elsewhere, and has nothing more to give. */
export class OriginRetired extends HandshakeError {}

/** The lease is void: the origin has gone on without us, and will never take us back. */
export class LeaseVoid extends HandshakeError {}

interface Reply {
  type: number;
  data: Buffer;
}

const NOTHING = Buffer.alloc(0);
const NO_ZEROES_PADDING = 124;
/** No honest answer to our options is longer. */
const MAX_REPLY_DATA = NBD_MAX_STRING + 64;

/** @param send takes the bytes for the server. @throws HandshakeError */
export function* clientHandshake(
  options: ClientHandshakeOptions,
  send: (bytes: Buffer) => void,
): ByteCoroutine<ServerOffer> {
  const offer = nothingYet();
  const serverFlags = options.serverFlags ?? (yield* meet(send, options.allowOldstyle ?? false, offer));
  if (serverFlags === null) return offer;
  const fixed = (serverFlags & HandshakeFlag.FIXED_NEWSTYLE) !== 0;
  const noZeroes = (serverFlags & HandshakeFlag.NO_ZEROES) !== 0;

  if (fixed) {
    offer.extended = (yield* ask(send, Option.EXTENDED_HEADERS, NOTHING)).accepted;
    offer.structured = offer.extended || (yield* ask(send, Option.STRUCTURED_REPLY, NOTHING)).accepted;
    if (options.attach !== undefined) offer.attached = yield* attach(send, options.attach);
    if (offer.attached !== null) offer.features = yield* agreeFeatures(send);
    if (offer.structured) offer.allocationContext = yield* setMetaContext(send, options.exportName);
    if (yield* go(send, options.exportName, offer)) return offer;
  }
  send(optionHeader(Option.EXPORT_NAME, Buffer.from(options.exportName)));
  const info = yield 10;
  takeSizeAndFlags(info, offer);
  if (!noZeroes) yield NO_ZEROES_PADDING;
  return offer;
}

function nothingYet(): ServerOffer {
  return {
    size: 0,
    flags: 0,
    structured: false,
    extended: false,
    allocationContext: null,
    attached: null,
    features: 0,
    minimumBlock: 1,
    maximumPayload: NBD_MAX_PAYLOAD,
  };
}

/**
 * The half in the clear: when it returns, the TLS handshake comes next, and not one byte of the server before
 * it.
 * @returns the server's handshake flags. @throws HandshakeError when the server does not do TLS.
 */
export function* startTls(send: (bytes: Buffer) => void): ByteCoroutine<number> {
  const serverFlags = yield* meet(send, false, nothingYet());
  if (serverFlags === null || (serverFlags & HandshakeFlag.FIXED_NEWSTYLE) === 0)
    throw new HandshakeError('the server is too old for TLS, which is required here', true);
  const answer = yield* ask(send, Option.STARTTLS, NOTHING);
  if (!answer.accepted)
    throw new HandshakeError(`the server refuses TLS, which is required here: ${answer.text}`, true);
  return serverFlags;
}

/**
 * Greeting and flags. @returns the server's handshake flags; null after an oldstyle greeting, which is all
 * that there is.
 */
function* meet(
  send: (bytes: Buffer) => void,
  allowOldstyle: boolean,
  offer: ServerOffer,
): ByteCoroutine<number | null> {
  const serverFlags = yield* greeting(allowOldstyle, offer);
  if (serverFlags === null) return null;
  const clientFlags = Buffer.alloc(4);
  clientFlags.writeUInt32BE(serverFlags & (HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES));
  send(clientFlags);
  return serverFlags;
}

/**
 * @returns the handshake flags of the server; null after an oldstyle greeting, which is all that there is.
 */
function* greeting(allowOldstyle: boolean, offer: ServerOffer): ByteCoroutine<number | null> {
  const first = yield 16;
  const style = first.readBigUInt64BE(8);
  if (first.readBigUInt64BE(0) !== NBD_MAGIC || (style !== NBD_OPTS_MAGIC && style !== NBD_OLDSTYLE_MAGIC)) {
    throw new HandshakeError('the peer does not speak NBD');
  }
  if (style === NBD_OPTS_MAGIC) return (yield 2).readUInt16BE(0);
  if (!allowOldstyle) {
    throw new HandshakeError(
      'the server speaks oldstyle NBD only, which has no export names: use a newstyle server (or --allow-oldstyle)',
      true,
    );
  }
  // Size, 16 bits of handshake flags, 16 bits of transmission flags, zeroes.
  const info = Buffer.from(yield 12);
  takeSizeAndFlags(Buffer.concat([info.subarray(0, 8), info.subarray(10)]), offer);
  yield NO_ZEROES_PADDING;
  return null;
}

function* attach(send: (bytes: Buffer) => void, request: AttachRequest): ByteCoroutine<Attached | null> {
  let answer = yield* ask(send, Option.XNBD_ATTACH, encodeAttachRequest(request));
  // An earlier release, which finds ours too long.
  if (answer.error === OptionReply.ERR_INVALID)
    answer = yield* ask(send, Option.XNBD_ATTACH, encodeAttachRequest({ ...request, version: 1 }));
  if (!answer.accepted) {
    if (answer.error === OptionReply.ERR_UNSUP) return null;
    const why = `the origin refuses to lend '${request.name}': ${answer.text}`;
    if (answer.error === OptionReply.XNBD_ERR_RETIRED) throw new OriginRetired(why, true, answer.error);
    if (answer.error === OptionReply.XNBD_ERR_VOID) throw new LeaseVoid(why, true, answer.error);
    throw new HandshakeError(why, true, answer.error);
  }
  const reply = answer.replies.find((each) => each.type === OptionReply.XNBD_ATTACHED);
  if (reply === undefined) throw new HandshakeError('the origin acknowledged the lease without its identity');
  try {
    return decodeAttached(reply.data);
  } catch (error) {
    throw new HandshakeError((error as Error).message);
  }
}

function* agreeFeatures(send: (bytes: Buffer) => void): ByteCoroutine<number> {
  const answer = yield* ask(send, Option.XNBD_FEATURES, encodeFeatures(FEATURES));
  const reply = answer.replies.find((each) => each.type === OptionReply.XNBD_FEATURES);
  if (!answer.accepted || reply === undefined) return 0;
  try {
    return decodeFeatures(reply.data);
  } catch (error) {
    throw new HandshakeError((error as Error).message);
  }
}

function* setMetaContext(send: (bytes: Buffer) => void, exportName: string): ByteCoroutine<number | null> {
  const data = Buffer.concat([sized(exportName), uint32(1), sized(BASE_ALLOCATION)]);
  const answer = yield* ask(send, Option.SET_META_CONTEXT, data);
  const reply = answer.replies.find(
    (each) => each.type === OptionReply.META_CONTEXT && each.data.toString('utf8', 4) === BASE_ALLOCATION,
  );
  return answer.accepted && reply !== undefined ? reply.data.readUInt32BE(0) : null;
}

/** @returns false when the server does not know GO. */
function* go(send: (bytes: Buffer) => void, exportName: string, offer: ServerOffer): ByteCoroutine<boolean> {
  const data = Buffer.alloc(4);
  data.writeUInt16BE(1, 0);
  data.writeUInt16BE(Info.BLOCK_SIZE, 2);
  const answer = yield* ask(send, Option.GO, Buffer.concat([sized(exportName), data]));
  if (!answer.accepted) {
    if (answer.error === OptionReply.ERR_UNSUP) return false;
    throw new HandshakeError(`the server refuses the export '${exportName}': ${answer.text}`, true);
  }
  let described = false;
  for (const reply of answer.replies) {
    if (reply.type !== OptionReply.INFO || reply.data.length < 2) continue;
    const kind = reply.data.readUInt16BE(0);
    if (kind === Info.EXPORT && reply.data.length === 12) {
      takeSizeAndFlags(reply.data.subarray(2), offer);
      described = true;
    } else if (kind === Info.BLOCK_SIZE && reply.data.length === 14) {
      takeBlockSizes(reply.data, offer);
    }
  }
  if (!described) throw new HandshakeError(`the server gives no size for the export '${exportName}'`);
  return true;
}

function takeSizeAndFlags(data: Buffer, offer: ServerOffer): void {
  const size = data.readBigUInt64BE(0);
  if (size > BigInt(Number.MAX_SAFE_INTEGER))
    throw new HandshakeError(`the server claims a size of ${size} bytes; at most 2^53 are handled`, true);
  offer.size = Number(size);
  offer.flags = data.readUInt16BE(8);
}

function takeBlockSizes(data: Buffer, offer: ServerOffer): void {
  const minimum = data.readUInt32BE(2);
  const maximum = data.readUInt32BE(10);
  if (minimum === 0 || (minimum & (minimum - 1)) !== 0 || minimum > 65536) {
    throw new HandshakeError(`the server claims a minimum block size of ${minimum} bytes`);
  }
  offer.minimumBlock = minimum;
  // A maximum below our block could not be worked with; one above what we use changes nothing.
  if (maximum < 65536) throw new HandshakeError(`the server claims a maximum payload of ${maximum} bytes`);
  offer.maximumPayload = Math.min(maximum, NBD_MAX_PAYLOAD);
}

interface Answer {
  accepted: boolean;
  replies: Reply[];
  /** The type of the error reply; 0 when accepted. */
  error: number;
  text: string;
}

/** Sends one option and collects replies until the final one (ACK or an error). */
function* ask(send: (bytes: Buffer) => void, option: number, data: Buffer): ByteCoroutine<Answer> {
  send(optionHeader(option, data));
  const replies: Reply[] = [];
  while (true) {
    const header = yield OPTION_REPLY_HEADER_LENGTH;
    if (header.readBigUInt64BE(0) !== NBD_OPTION_REPLY_MAGIC)
      throw new HandshakeError('an option reply has no magic');
    if (header.readUInt32BE(8) !== option) {
      throw new HandshakeError(`a reply to option ${header.readUInt32BE(8)} came for option ${option}`);
    }
    const type = header.readUInt32BE(12);
    const length = header.readUInt32BE(16);
    if (length > MAX_REPLY_DATA) throw new HandshakeError(`an option reply claims ${length} bytes`);
    const body = length > 0 ? Buffer.from(yield length) : Buffer.alloc(0);
    if (type === OptionReply.ACK) return { accepted: true, replies, error: 0, text: '' };
    if (type >= 2 ** 31)
      return {
        accepted: false,
        replies,
        error: type,
        text: printable(body.toString(), 300) || `error ${type - 2 ** 31}`,
      };
    if (replies.push({ type, data: body }) > 64)
      throw new HandshakeError(`more than 64 replies to option ${option}`);
  }
}

function optionHeader(option: number, data: Buffer): Buffer {
  const header = Buffer.alloc(OPTION_HEADER_LENGTH);
  header.writeBigUInt64BE(NBD_OPTS_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function sized(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
