/**
 * One NBD connection to a server, as a client: requests, replies in any order. It does not come back when it
 * breaks: that is the link's (relocation/origin/link.ts).
 *
 * Requests answer through completions. A request that is under way when the connection breaks is never
 * completed here; the owner learns of the break by `onClosed` and has the requests.
 */
import type { Socket } from 'node:net';
import { ByteDriver } from '../nbd/byte-coroutine.ts';
import { Command, CommandFlag, TransmissionFlag } from '../nbd/constants.ts';
import type { ServerOffer } from '../nbd/handshake/client-handshake.ts';
import { parseReplies } from '../nbd/transmission/reply-parser.ts';
import { encodeExtendedRequest, encodeRequest } from '../nbd/transmission/request-encoder.ts';
import type { Completion, ExtentsCompletion } from '../store/completion.ts';
import { descriptorOf } from '../system/descriptors/descriptor.ts';
import { type ConnectOptions, dialOrigin } from './dial.ts';
import { type Awaiting, RequestTable } from './request-table.ts';
import { StallWatch } from './stall-watch.ts';

/** A probe that was answered within this time shows a server that needs no patience. */
const PROBED_WELL_MS = 5000;

/** The server has said nothing for too long. */
export class Stalled extends Error {
  /** How long ago it was heard last. */
  readonly seconds: number;
  constructor(seconds: number) {
    super(`nothing has come from it for ${seconds} s, and it does not answer a probe`);
    this.seconds = seconds;
  }
}

/** The server has closed the connection in order: no reset, and nothing that we had to complain of. */
export class HungUp extends Error {
  constructor() {
    super('the server closed the connection');
  }
}

export class OriginConnection {
  readonly offer: ServerOffer;
  /** Told when the server has answered a probe in time. */
  onProbed: (() => void) | null = null;
  #onClosed: ((reason: Error) => void) | null = null;
  /** Why it is of no more use; null while it is. */
  #broken: Error | null = null;
  readonly #socket: Socket;
  readonly #requests: RequestTable;
  readonly #encode: typeof encodeRequest;
  readonly #stallWatch: StallWatch;
  #closed = false;

  private constructor(socket: Socket, offer: ServerOffer, patience: number) {
    this.#socket = socket;
    this.offer = offer;
    this.#requests = new RequestTable(offer.allocationContext);
    this.#encode = offer.extended ? encodeExtendedRequest : encodeRequest;
    this.#stallWatch = new StallWatch({
      patience,
      waiting: () => this.#requests.size > 0,
      probe: () => this.#probe(),
      stalled: (seconds) => this.#close(new Stalled(seconds)),
    });
  }

  /**
   * Connects and agrees.
   * @param options.patience how many times longer than usual the server may be silent; default 1.
   * @throws HandshakeError when the server refuses or is none; Error when it cannot be reached or takes over
   * 10 seconds.
   */
  static async connect(options: ConnectOptions & { patience?: number }): Promise<OriginConnection> {
    return await dialOrigin(options, (socket, offer) => {
      const connection = new OriginConnection(socket, offer, options.patience ?? 1);
      return { result: connection, receive: connection.#start() };
    });
  }

  /** Told once, when the connection is of no more use: at once, if it broke before this was set. */
  set onClosed(listener: ((reason: Error) => void) | null) {
    this.#onClosed = listener;
    if (this.#broken !== null) listener?.(this.#broken);
  }

  /** The server gives the allocation of its export. */
  get hasExtents(): boolean {
    return this.offer.allocationContext !== null;
  }

  has(flag: keyof typeof TransmissionFlag): boolean {
    return (this.offer.flags & TransmissionFlag[flag]) !== 0;
  }

  /** @param flags CommandFlag bits. */
  read(into: Buffer, offset: number, done: Completion, flags = 0): void {
    this.#request(Command.READ, flags, offset, into.length, { into, done });
  }

  /** `data` stays untouched until completion. @param flags CommandFlag bits. */
  write(data: Buffer, offset: number, flags: number, done: Completion): void {
    this.#socket.cork();
    this.#request(Command.WRITE, flags, offset, data.length, { done });
    this.#socket.write(data);
    this.#socket.uncork();
  }

  /** FLUSH, TRIM, WRITE_ZEROES, or a private command. @param flags CommandFlag bits. */
  command(type: number, offset: number, length: number, flags: number, done: Completion): void {
    this.#request(type, flags, offset, length, { done });
  }

  /** The private command HASH: the SHA-256 of [offset, +length) comes into the 32 bytes of `into`. */
  hash(into: Buffer, offset: number, length: number, done: Completion): void {
    this.#request(Command.XNBD_HASH, 0, offset, length, { into, chunked: true, done });
  }

  extents(offset: number, length: number, flags: number, done: ExtentsCompletion): void {
    this.#request(Command.BLOCK_STATUS, flags, offset, length, { extentsDone: done });
  }

  /** Says NBD_CMD_DISC and closes: the orderly end. */
  disconnect(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stallWatch.stop();
    this.#socket.end(this.#encode(Command.DISC, 0, 0n, 0, 0));
    // A server that has gone quiet must not keep the process alive.
    this.#socket.setTimeout(2000, () => this.#socket.destroy());
  }

  /** Of its socket; -1 once that is closed. */
  get descriptor(): number {
    return descriptorOf(this.#socket).fd;
  }

  /** Closes without a word. */
  destroy(reason = new Error('closed here')): void {
    this.#close(reason);
  }

  /**
   * Asks for what any server has at hand; that of ours has a command for it, which older ones refuse as fast.
   */
  #probe(): void {
    const began = performance.now();
    const done: Completion = {
      complete: () => {
        if (performance.now() - began < PROBED_WELL_MS) this.onProbed?.();
      },
    };
    const { attached, minimumBlock } = this.offer;
    if (attached !== null) this.command(Command.XNBD_PING, 0, 0, 0, done);
    else if (this.hasExtents) this.extents(0, minimumBlock, CommandFlag.REQ_ONE, done);
    else this.read(Buffer.alloc(minimumBlock), 0, done);
  }

  #request(type: number, flags: number, offset: number, length: number, what: Awaiting): void {
    const cookie = this.#requests.add(offset, what);
    this.#socket.write(this.#encode(type, flags, cookie, offset, length));
  }

  /** From the handshake to transmission. @returns what takes the bytes from now on. */
  #start(): (chunk: Buffer) => void {
    const replies = new ByteDriver(parseReplies(this.offer, this.#requests));
    this.#socket.on('error', (error) => this.#close(error));
    this.#socket.on('close', () => this.#close(new HungUp()));
    return (chunk) => {
      if (this.#closed) return;
      this.#stallWatch.heard();
      try {
        replies.feed(chunk);
      } catch (error) {
        this.#close(error as Error);
      }
    };
  }

  #close(reason: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stallWatch.stop();
    this.#socket.destroy();
    this.#broken = reason;
    this.#onClosed?.(reason);
  }
}
