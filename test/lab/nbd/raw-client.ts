/**
 * An NBD client without manners: it sends what a test wants sent, byte by byte, and decodes what comes back.
 */
import { connect, type Socket } from 'node:net';
import {
  Command,
  CommandFlag,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  Option,
  OptionReply,
  ReplyChunk,
} from '../../../src/nbd/constants.ts';
import {
  type Attached,
  type AttachRequest,
  decodeAttached,
  encodeAttachRequest,
} from '../../../src/nbd/handshake/attach.ts';
import { encodeFeatures } from '../../../src/nbd/handshake/features.ts';
import { encodeOption } from '../../../src/nbd/handshake/option-framing.ts';
import { encodePeer, type Peer } from '../../../src/nbd/handshake/peer.ts';

export interface RawReply {
  structured: boolean;
  extended?: boolean;
  cookie: bigint;
  errno: number;
  /** Of a structured chunk. */
  chunk: number;
  data: Buffer;
  /** In an extended header. */
  offset?: bigint;
}

export interface RawRequest {
  type: number;
  offset?: number;
  length?: number;
  flags?: number;
  payload?: Buffer;
  cookie?: bigint;
  /** In an extended header. */
  extended?: boolean;
}

export class RawClient {
  readonly socket: Socket;
  #chunks: Buffer[] = [];
  #length = 0;
  #wake: (() => void) | undefined;
  #ended = false;
  #structured = false;
  #extended = false;
  #cookie = 0n;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      this.#wake?.();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  /** Connects and takes the greeting; sends the client flags unless told not to. */
  static async connect(path: string, flags: number | null = 3): Promise<RawClient> {
    const socket = connect(path);
    const client = new RawClient(socket);
    await client.take(18);
    if (flags !== null) {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32BE(flags);
      socket.write(bytes);
    }
    return client;
  }

  /** Connected, structured replies and base:allocation agreed, GO done. */
  static async open(
    path: string,
    name: string,
    options: {
      structured?: boolean;
      extended?: boolean;
      attach?: AttachRequest;
      features?: number;
      peer?: Peer;
    } = {},
  ) {
    const client = await RawClient.connect(path);
    if (options.peer !== undefined) {
      const [answer] = await client.option(Option.XNBD_PEER, encodePeer(options.peer));
      if (answer?.type !== OptionReply.ACK) throw new Error(`PEER: ${answer?.data.toString()}`);
    }
    if (options.structured ?? true) {
      await client.option(options.extended === true ? Option.EXTENDED_HEADERS : Option.STRUCTURED_REPLY);
      await client.option(Option.SET_META_CONTEXT, metaContext(name, ['base:allocation']));
    }
    if (options.attach !== undefined) {
      const answer = await client.attach(options.attach);
      if (typeof answer === 'string') throw new Error(answer);
    }
    if (options.features !== undefined) {
      const replies = await client.option(Option.XNBD_FEATURES, encodeFeatures(options.features));
      if (replies.at(-1)?.type !== OptionReply.ACK) throw new Error('features are not to be had');
    }
    const replies = await client.option(Option.GO, infoRequest(name));
    const last = replies.at(-1);
    if (last?.type !== OptionReply.ACK) throw new Error(`GO: ${last?.data.toString()}`);
    return client;
  }

  /** Waits for exactly so many bytes. @throws Error when the connection ends before */
  async take(count: number): Promise<Buffer> {
    while (this.#length < count) {
      if (this.#ended) throw new Error(`connection closed, ${this.#length} of ${count} bytes received`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = [bytes.subarray(count)];
    this.#length -= count;
    return bytes.subarray(0, count);
  }

  /** Resolves when the server has closed the connection. */
  async closed(): Promise<void> {
    while (!this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Sends an option. @returns its replies up to the last (ACK or an error) */
  async option(option: number, data: Buffer = Buffer.alloc(0)): Promise<{ type: number; data: Buffer }[]> {
    this.socket.write(encodeOption(option, data));
    const replies = [];
    for (;;) {
      const header = await this.take(20);
      const type = header.readUInt32BE(12);
      replies.push({ type, data: await this.take(header.readUInt32BE(16)) });
      if (type === OptionReply.ACK && option === Option.STRUCTURED_REPLY) this.#structured = true;
      if (type === OptionReply.ACK && option === Option.EXTENDED_HEADERS) this.#extended = true;
      if (type === OptionReply.ACK || type >= 2 ** 31) return replies;
    }
  }

  /** @returns the text of the refusal, when refused */
  async attach(request: AttachRequest): Promise<Attached | string> {
    const replies = await this.option(Option.XNBD_ATTACH, encodeAttachRequest(request));
    const first = replies[0]!;
    return first.type === OptionReply.XNBD_ATTACHED ? decodeAttached(first.data) : first.data.toString();
  }

  /** Sends a request and does not wait. */
  send(request: RawRequest): bigint {
    const cookie = request.cookie ?? ++this.#cookie;
    this.socket.write(encodeRawRequest({ extended: this.#extended, ...request, cookie }));
    return cookie;
  }

  /** Sends a request and takes its reply; nothing else may be under way. */
  async ask(request: RawRequest): Promise<RawReply> {
    const cookie = this.send(request);
    const isRead = request.type === Command.READ;
    const reply = await this.reply(isRead ? (request.length ?? 0) : 0);
    if (reply.cookie !== cookie) throw new Error(`reply to ${reply.cookie}, not to ${cookie}`);
    return reply;
  }

  /** Takes the next reply. @param dataLength of a simple reply without an error */
  async reply(dataLength = 0): Promise<RawReply> {
    if (this.#extended) return this.#extendedReply();
    const header = await this.take(16);
    const cookie = header.readBigUInt64BE(8);
    const magic = header.readUInt32BE(0);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) {
      const errno = header.readUInt32BE(4);
      const data = errno === 0 ? await this.take(dataLength) : Buffer.alloc(0);
      return { structured: false, cookie, errno, chunk: -1, data };
    }
    if (magic !== NBD_STRUCTURED_REPLY_MAGIC || !this.#structured)
      throw new Error(`reply magic ${magic.toString(16)}`);
    const chunk = header.readUInt16BE(6);
    const length = (await this.take(4)).readUInt32BE();
    const body = await this.take(length);
    const errno = chunk >= 2 ** 15 ? body.readUInt32BE(0) : 0;
    const data = chunk === ReplyChunk.OFFSET_DATA ? body.subarray(8) : body;
    return { structured: true, cookie, errno, chunk, data };
  }

  async #extendedReply(): Promise<RawReply> {
    const header = await this.take(32);
    if (header.readUInt32BE(0) !== NBD_EXTENDED_REPLY_MAGIC) throw new Error('no extended reply');
    const chunk = header.readUInt16BE(6);
    const cookie = header.readBigUInt64BE(8);
    const offset = header.readBigUInt64BE(16);
    const body = await this.take(Number(header.readBigUInt64BE(24)));
    const errno = chunk >= 2 ** 15 ? body.readUInt32BE(0) : 0;
    const data = chunk === ReplyChunk.OFFSET_DATA ? body.subarray(8) : body;
    return { structured: true, extended: true, cookie, errno, chunk, data, offset };
  }

  async read(offset: number, length: number): Promise<RawReply> {
    return this.ask({ type: Command.READ, offset, length });
  }

  async write(offset: number, payload: Buffer, flags = 0): Promise<number> {
    return (await this.ask({ type: Command.WRITE, offset, length: payload.length, payload, flags })).errno;
  }

  async command(type: number, offset = 0, length = 0, flags = 0): Promise<number> {
    return (await this.ask({ type, offset, length, flags })).errno;
  }

  /** Says NBD_CMD_DISC and waits until the server has closed. */
  async disconnect(): Promise<void> {
    this.send({ type: Command.DISC });
    await this.closed();
  }

  /** Breaks the connection without a word. */
  break(): void {
    this.socket.destroy();
  }
}

export function encodeRawRequest(request: RawRequest): Buffer {
  if (request.extended === true) return encodeExtendedRequest(request);
  const header = Buffer.alloc(28);
  header.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  header.writeUInt16BE(request.flags ?? 0, 4);
  header.writeUInt16BE(request.type, 6);
  header.writeBigUInt64BE(request.cookie ?? 0n, 8);
  header.writeBigUInt64BE(BigInt(request.offset ?? 0), 16);
  header.writeUInt32BE(request.length ?? 0, 24);
  return request.payload === undefined ? header : Buffer.concat([header, request.payload]);
}

function encodeExtendedRequest(request: RawRequest): Buffer {
  const header = Buffer.alloc(32);
  const payloadFlag = request.payload === undefined ? 0 : CommandFlag.PAYLOAD_LEN;
  header.writeUInt32BE(NBD_EXTENDED_REQUEST_MAGIC, 0);
  header.writeUInt16BE((request.flags ?? 0) | payloadFlag, 4);
  header.writeUInt16BE(request.type, 6);
  header.writeBigUInt64BE(request.cookie ?? 0n, 8);
  header.writeBigUInt64BE(BigInt(request.offset ?? 0), 16);
  header.writeBigUInt64BE(BigInt(request.length ?? 0), 24);
  return request.payload === undefined ? header : Buffer.concat([header, request.payload]);
}

export function infoRequest(name: string, infos: number[] = []): Buffer {
  const bytes = Buffer.from(name);
  const data = Buffer.alloc(4 + bytes.length + 2 + 2 * infos.length);
  data.writeUInt32BE(bytes.length, 0);
  bytes.copy(data, 4);
  data.writeUInt16BE(infos.length, 4 + bytes.length);
  for (const [index, info] of infos.entries()) data.writeUInt16BE(info, 6 + bytes.length + 2 * index);
  return data;
}

export function metaContext(name: string, queries: string[]): Buffer {
  const string = (text: string) => {
    const bytes = Buffer.from(text);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  const count = Buffer.alloc(4);
  count.writeUInt32BE(queries.length);
  return Buffer.concat([string(name), count, ...queries.map(string)]);
}
