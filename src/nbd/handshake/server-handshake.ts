/**
 * The server's side of the handshake (fixed newstyle, doc/proto.md "Option haggling"): bytes in, replies out,
 * no I/O.
 *
 *     greeting -> client flags -> options ... -> transmission
 *                                    |
 *                                    +-> closed (ABORT, EXPORT_NAME of an unknown export, a broken protocol)
 *
 * An option that is not known, or not allowed, is answered with an error and haggling goes on. Nothing here
 * trusts a length: an option of more than MAX_OPTION_DATA bytes, or more than MAX_OPTIONS options, ends the
 * connection.
 */

import {
  BASE_ALLOCATION,
  HandshakeFlag,
  Info,
  NBD_MAX_PAYLOAD,
  NBD_MAX_STRING,
  NBD_OPTS_MAGIC,
  OPTION_HEADER_LENGTH,
  Option,
  OptionReply,
  TransmissionFlag,
} from '../constants.ts';
import { printable } from '../printable.ts';
import type { ReceiveBuffer } from '../receive-buffer.ts';
import type { Agreement, HandshakeMemory, HandshakeState } from './agreement.ts';
import type { Attached, AttachRequest } from './attach.ts';
import { decodeAttachRequest, encodeAttached } from './attach.ts';
import { decodeFeatures, encodeFeatures } from './features.ts';
import { parseInfoRequest, parseMetaContextRequest } from './option-data.ts';
import {
  decodeOptionHeader,
  encodeGreeting,
  encodeListed,
  encodeOptionReply,
  HANDSHAKE_FLAGS,
} from './option-framing.ts';
import { decodePeer, type Peer } from './peer.ts';

const MAX_OPTION_DATA = 3 * NBD_MAX_STRING;
const MAX_OPTIONS = 128;
const MINIMUM_BLOCK = 1;
const PREFERRED_BLOCK = 4096;
/** The number by which replies name `base:allocation`, the only context that there is. */
export const ALLOCATION_CONTEXT_ID = 1;

export interface OfferedExport {
  /** Bytes. */
  size: number;
  /** SEND_DF is added where replies are structured. */
  transmissionFlags: number;
}

/** An option is refused: `type` is an OptionReply.ERR_*, `text` one line for the person at the other end. */
export interface Refusal {
  type: number;
  text: string;
}

/** What answers for the exports while a client haggles. */
export interface HandshakeHost {
  names(): string[];
  /** @param name may be empty: the default export. */
  find(name: string): OfferedExport | Refusal;
  /** A gateway says, before anything else, that the client is a host of the network. */
  brought(peer: Peer): void;
  /** The client asks for a lease; when it is given, it belongs to this connection. */
  attach(request: AttachRequest): Attached | Refusal;
}

export class ServerHandshake {
  state: HandshakeState = 'haggling';
  /** What has been agreed so far; final once `state` is 'transmission'. */
  readonly agreement: Agreement = {
    structuredReplies: false,
    extendedHeaders: false,
    baseAllocation: false,
    attached: false,
    features: 0,
  };
  /** Why the handshake ended, once `state` is 'closed'. */
  closedBecause = '';
  readonly #host: HandshakeHost;
  #noZeroes = false;
  #flagsSeen = false;
  #options = 0;
  /** The export named in SET_META_CONTEXT or XNBD_ATTACH, that GO must name too. */
  #contextExport: string | undefined;
  #attachedExport: string | undefined;
  #replies: Buffer[] = [];

  /** @param memory of the process that began it; undefined: it begins here */
  constructor(host: HandshakeHost, memory?: HandshakeMemory) {
    this.#host = host;
    if (memory === undefined) return;
    this.state = memory.state;
    Object.assign(this.agreement, memory.agreement);
    this.#noZeroes = memory.noZeroes;
    this.#flagsSeen = memory.flagsSeen;
    this.#options = memory.options;
    this.#contextExport = memory.contextExport ?? undefined;
    this.#attachedExport = memory.attachedExport ?? undefined;
  }

  /** Between two options. */
  get memory(): HandshakeMemory {
    return {
      state: this.state,
      agreement: this.agreement,
      noZeroes: this.#noZeroes,
      flagsSeen: this.#flagsSeen,
      options: this.#options,
      contextExport: this.#contextExport ?? null,
      attachedExport: this.#attachedExport ?? null,
    };
  }

  /** The first bytes. */
  greeting(): Buffer {
    return encodeGreeting();
  }

  /**
   * Takes what is complete from `input` and returns the replies to send, in order. Bytes after the handshake
   * stay in `input`.
   */
  feed(input: ReceiveBuffer): Buffer[] {
    this.#replies = [];
    while (this.state === 'haggling' && (this.#flagsSeen ? this.#option(input) : this.#clientFlags(input))) {
      // One message a turn.
    }
    return this.#replies;
  }

  #clientFlags(input: ReceiveBuffer): boolean {
    if (!input.has(4)) return false;
    const flags = input.bytes.readUInt32BE(input.start);
    input.consume(4);
    if ((flags & ~HANDSHAKE_FLAGS) !== 0)
      this.#close(`client sent unknown handshake flags 0x${flags.toString(16)}`);
    this.#noZeroes = (flags & HandshakeFlag.NO_ZEROES) !== 0;
    this.#flagsSeen = true;
    return true;
  }

  #option(input: ReceiveBuffer): boolean {
    if (!input.has(OPTION_HEADER_LENGTH)) return false;
    const { bytes, start } = input;
    if (bytes.readBigUInt64BE(start) !== NBD_OPTS_MAGIC) {
      this.#close('client sent a wrong option magic');
      return false;
    }
    const { option, length } = decodeOptionHeader(bytes.subarray(start, start + OPTION_HEADER_LENGTH));
    if (length > MAX_OPTION_DATA) {
      this.#refuse(
        option,
        OptionReply.ERR_TOO_BIG,
        `option of ${length} bytes; the maximum is ${MAX_OPTION_DATA}`,
      );
      this.#close(`client sent option ${option} with ${length} bytes`);
      return false;
    }
    if (!input.has(OPTION_HEADER_LENGTH + length)) return false;
    // `has` may have moved the bytes.
    const dataAt = input.start + OPTION_HEADER_LENGTH;
    const data = input.bytes.subarray(dataAt, dataAt + length);
    input.consume(OPTION_HEADER_LENGTH + length);
    this.#options += 1;
    if (this.#options > MAX_OPTIONS) this.#close(`client sent more than ${MAX_OPTIONS} options`);
    else this.#answer(option, data);
    return true;
  }

  #answer(option: number, data: Buffer): void {
    switch (option) {
      case Option.EXPORT_NAME:
        this.#exportName(data);
        break;
      case Option.ABORT:
        this.#reply(option, OptionReply.ACK);
        this.#close('client aborted the handshake');
        break;
      case Option.LIST:
        this.#list(data);
        break;
      case Option.INFO:
      case Option.GO:
        this.#info(option, data);
        break;
      case Option.STRUCTURED_REPLY:
      case Option.EXTENDED_HEADERS:
        this.#replyStyle(option, data);
        break;
      case Option.LIST_META_CONTEXT:
      case Option.SET_META_CONTEXT:
        this.#metaContext(option, data);
        break;
      case Option.XNBD_ATTACH:
        this.#attach(data);
        break;
      case Option.XNBD_PEER:
        this.#peer(data);
        break;
      case Option.XNBD_FEATURES:
        this.#features(data);
        break;
      default:
        this.#refuse(option, OptionReply.ERR_UNSUP, `option ${option} is not supported`);
    }
  }

  #replyStyle(option: number, data: Buffer): void {
    const { agreement } = this;
    const extended = option === Option.EXTENDED_HEADERS;
    if (data.length > 0) {
      this.#refuse(option, OptionReply.ERR_INVALID, `option ${option} takes no data`);
    } else if (agreement.extendedHeaders) {
      const type = extended ? OptionReply.ERR_INVALID : OptionReply.ERR_EXT_HEADER_REQD;
      this.#refuse(option, type, 'extended headers are agreed already');
    } else {
      agreement.structuredReplies = true;
      agreement.extendedHeaders = extended;
      this.#reply(option, OptionReply.ACK);
    }
  }

  #exportName(data: Buffer): void {
    const name = data.toString('utf8');
    if (this.agreement.extendedHeaders) {
      this.#close('client sent EXPORT_NAME after EXTENDED_HEADERS');
      return;
    }
    const found = this.#find(name);
    if ('type' in found) {
      // This option has no way to say no.
      this.#close(`client asked for export '${printable(name)}': ${found.text}`);
      return;
    }
    const reply = Buffer.alloc(this.#noZeroes ? 10 : 134);
    reply.writeBigUInt64BE(BigInt(found.size), 0);
    reply.writeUInt16BE(found.transmissionFlags, 8);
    this.#replies.push(reply);
    this.#begin(name);
  }

  #list(data: Buffer): void {
    if (data.length > 0) {
      this.#refuse(Option.LIST, OptionReply.ERR_INVALID, 'LIST takes no data');
      return;
    }
    for (const name of this.#host.names()) this.#replies.push(encodeListed(name));
    this.#reply(Option.LIST, OptionReply.ACK);
  }

  #info(option: number, data: Buffer): void {
    const request = parseInfoRequest(data);
    if (request === undefined) {
      this.#refuse(option, OptionReply.ERR_INVALID, `malformed option ${option} of ${data.length} bytes`);
      return;
    }
    const found = this.#find(request.name);
    if ('type' in found) {
      this.#refuse(option, found.type, found.text);
      return;
    }
    const info = Buffer.alloc(12);
    info.writeUInt16BE(Info.EXPORT, 0);
    info.writeBigUInt64BE(BigInt(found.size), 2);
    info.writeUInt16BE(found.transmissionFlags, 10);
    this.#reply(option, OptionReply.INFO, info);
    if (request.infos.includes(Info.BLOCK_SIZE)) {
      const blocks = Buffer.alloc(14);
      blocks.writeUInt16BE(Info.BLOCK_SIZE, 0);
      blocks.writeUInt32BE(MINIMUM_BLOCK, 2);
      blocks.writeUInt32BE(PREFERRED_BLOCK, 6);
      blocks.writeUInt32BE(NBD_MAX_PAYLOAD, 10);
      this.#reply(option, OptionReply.INFO, blocks);
    }
    this.#reply(option, OptionReply.ACK);
    if (option === Option.GO) this.#begin(request.name);
  }

  #metaContext(option: number, data: Buffer): void {
    const request = parseMetaContextRequest(data);
    if (request === undefined || !this.agreement.structuredReplies) {
      const why = request === undefined ? 'malformed' : 'without structured replies, so refused:';
      this.#refuse(option, OptionReply.ERR_INVALID, `${why} meta context option of ${data.length} bytes`);
      return;
    }
    if (option === Option.SET_META_CONTEXT) this.agreement.baseAllocation = false;
    const found = this.#find(request.name);
    if ('type' in found) {
      this.#refuse(option, found.type, found.text);
      return;
    }
    const listing = option === Option.LIST_META_CONTEXT;
    const { queries } = request;
    const wanted =
      queries.includes(BASE_ALLOCATION) || (listing && (queries.length === 0 || queries.includes('base:')));
    if (wanted) {
      const id = Buffer.alloc(4);
      // The id means nothing in an answer to LIST.
      id.writeUInt32BE(listing ? 0 : ALLOCATION_CONTEXT_ID);
      this.#reply(option, OptionReply.META_CONTEXT, Buffer.concat([id, Buffer.from(BASE_ALLOCATION)]));
      if (!listing) {
        this.agreement.baseAllocation = true;
        this.#contextExport = request.name;
      }
    }
    this.#reply(option, OptionReply.ACK);
  }

  #attach(data: Buffer): void {
    let request: AttachRequest;
    try {
      request = decodeAttachRequest(data);
    } catch (error) {
      this.#refuse(Option.XNBD_ATTACH, OptionReply.ERR_INVALID, (error as Error).message);
      return;
    }
    const answer =
      this.#attachedExport === undefined
        ? this.#host.attach(request)
        : { type: OptionReply.ERR_INVALID, text: 'this connection is attached already' };
    if ('type' in answer) {
      this.#refuse(Option.XNBD_ATTACH, answer.type, answer.text);
      return;
    }
    this.#attachedExport = request.name;
    this.agreement.attached = true;
    this.#reply(Option.XNBD_ATTACH, OptionReply.XNBD_ATTACHED, encodeAttached(answer, request.version));
    this.#reply(Option.XNBD_ATTACH, OptionReply.ACK);
  }

  #features(data: Buffer): void {
    const { agreement } = this;
    try {
      if (!agreement.attached) throw new Error('features are agreed with a lease holder only');
      agreement.features = decodeFeatures(data);
      this.#reply(Option.XNBD_FEATURES, OptionReply.XNBD_FEATURES, encodeFeatures(agreement.features));
      this.#reply(Option.XNBD_FEATURES, OptionReply.ACK);
    } catch (error) {
      this.#refuse(Option.XNBD_FEATURES, OptionReply.ERR_INVALID, (error as Error).message);
    }
  }

  /** Before anything else: a client that a gateway has brought cannot say that it is another. */
  #peer(data: Buffer): void {
    if (this.#options !== 1) {
      this.#refuse(Option.XNBD_PEER, OptionReply.ERR_INVALID, 'whose connection this is comes first');
      return;
    }
    try {
      this.#host.brought(decodePeer(data));
      this.#reply(Option.XNBD_PEER, OptionReply.ACK);
    } catch (error) {
      this.#refuse(Option.XNBD_PEER, OptionReply.ERR_INVALID, (error as Error).message);
      this.#close((error as Error).message);
    }
  }

  #find(name: string): OfferedExport | Refusal {
    if (Buffer.byteLength(name) > NBD_MAX_STRING) {
      return { type: OptionReply.ERR_TOO_BIG, text: `export name is longer than ${NBD_MAX_STRING} bytes` };
    }
    if (this.#attachedExport !== undefined && this.#attachedExport !== name) {
      const text = `this connection is attached to export '${this.#attachedExport}', not '${printable(name)}'`;
      return { type: OptionReply.ERR_INVALID, text };
    }
    const found = this.#host.find(name);
    if ('type' in found || !this.agreement.structuredReplies) return found;
    return { ...found, transmissionFlags: found.transmissionFlags | TransmissionFlag.SEND_DF };
  }

  #begin(name: string): void {
    // Contexts are negotiated for one export; choosing another discards them (doc/proto.md,
    // NBD_OPT_SET_META_CONTEXT).
    if (this.#contextExport !== name) this.agreement.baseAllocation = false;
    this.state = 'transmission';
  }

  #close(because: string): void {
    this.state = 'closed';
    this.closedBecause = because;
  }

  #refuse(option: number, type: number, text: string): void {
    this.#reply(option, type, text);
  }

  #reply(option: number, type: number, data?: Buffer | string): void {
    this.#replies.push(encodeOptionReply(option, type, data));
  }
}
