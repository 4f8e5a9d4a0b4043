/**
 * One connection: the handshake, then requests in and replies out, until it ends.
 *
 * This is the hot path. Bytes come straight into one receive buffer, requests are parsed and handed to the
 * disk from there, and answered in the order in which the disk completes them. What one client may keep under
 * way is bounded: past its share (Export.clientBytes) the session stops reading its socket, and goes on below
 * half of that; nor does it take on more for a client that is slow to read its replies. One that marks what
 * it reads in the background is read on, because what it waits for passes that (background-reads.ts). And no
 * client keeps the loop: after TURN_MS of its requests it is the others' turn.
 */
import type { Socket } from 'node:net';
import { log } from '../../log/log.ts';
import { Recurring } from '../../log/recurring.ts';
import { Command, Errno, NBD_MAX_PAYLOAD } from '../../nbd/constants.ts';
import type { Peer } from '../../nbd/handshake/peer.ts';
import type { ServerHandshake } from '../../nbd/handshake/server-handshake.ts';
import { ReceiveBuffer } from '../../nbd/receive-buffer.ts';
import { encodeExtendedRequest, encodeRequest } from '../../nbd/transmission/request-encoder.ts';
import { ProtocolError, RequestParser } from '../../nbd/transmission/request-parser.ts';
import { replyStyle } from '../../nbd/transmission/server-replies.ts';
import type { Extent } from '../../store/completion.ts';
import { type Descriptor, descriptorOf } from '../../system/descriptors/descriptor.ts';
import type { Client, Export } from '../export.ts';
import type { SessionMemory } from '../session-memory.ts';
import { Anticipation } from './anticipation.ts';
import { BackgroundReads } from './background-reads.ts';
import { checkRequest, type RequestLimits, requestLimits } from './check-request.ts';
import { Dispatch } from './dispatch.ts';
import { handshakeWith } from './handshake.ts';
import { Receiving } from './receiving.ts';
import { Replies } from './replies/replies.ts';
import { type BodyOwner, PlainBody, type ReplyBody } from './replies/reply-body.ts';
import { ReplyWriter } from './replies/reply-writer.ts';
import { Request, type RequestOwner } from './request.ts';

const HANDSHAKE_BUFFER = 16 * 1024;
const RECEIVE_BUFFER = 1024 * 1024;
const HANDSHAKE_LIMIT_MS = 30_000;
const TURN_MS = 5;
/** After so many small requests, or so many pieces of 64 KiB, the clock is looked at. */
const TURN_WEIGHT = 64;
/** So long one client is answered before the loop turns again. */
const ANTICIPATION_MS = 1;
/** Faulty requests that are logged, a connection. */
const LOGGED_FAULTS = 5;
const NOTHING = Buffer.alloc(0);

const drops = new Recurring('warning');
const faults = new Recurring('warning');

export class Session implements Client, RequestOwner, BodyOwner {
  attached = false;
  /** The host of the network whose connection this is; null: a client of this host. */
  peer: Peer | null = null;
  readonly #export: Export;
  readonly #receiving: Receiving;
  readonly #input: ReceiveBuffer;
  readonly #handshake: ServerHandshake;
  /** Of an earlier process, from which the connection comes. */
  readonly #memory: SessionMemory | undefined;
  readonly #parser = new RequestParser();
  #socket!: Socket;
  #descriptor!: Descriptor;
  #writer!: ReplyWriter;
  #replies!: Replies;
  #body!: ReplyBody;
  #dispatch!: Dispatch;
  readonly #anticipation = new Anticipation();
  readonly #background = new BackgroundReads({
    submit: (request) => this.#dispatch.attempt(request, NOTHING),
    unsent: () => (this.#writer.backedUp ? null : this.#writer.laterBytes),
  });
  /** Requests that came in together, the last time, and all before. */
  #taken = 0;
  #takenBefore = 0;
  #limits!: RequestLimits;
  #handshakeTimer: NodeJS.Timeout | undefined;
  /** Past the handshake. */
  inTransmission = false;
  /** The connection ends when the requests under way have been answered. */
  #ending = false;
  /** The server ends it: what comes is answered all the same. */
  #stopping = false;
  #orderly = false;
  #closed = false;
  #paused = false;
  /** Nothing more is taken: the connection may go to another process. */
  #held = false;
  /** Requests that another process is to be asked again, because this one cannot wait for their answers. */
  #again: Buffer[] = [];
  #goingOn = false;
  #underWay = 0;
  /** Payload bytes and costs of the requests under way. */
  #heldBytes = 0;
  #faults = 0;

  /** @param memory of the connection in an earlier process; undefined: it is new */
  constructor(served: Export, memory?: SessionMemory) {
    this.#export = served;
    this.#memory = memory;
    this.peer = memory?.peer ?? null;
    this.#receiving = new Receiving(
      served.largeRequests,
      () => this.#goOn(),
      (seconds) => this.#drop(`a request has not come in as a whole for ${seconds.toFixed(0)} s`),
    );
    this.#input = new ReceiveBuffer(HANDSHAKE_BUFFER, this.#receiving);
    this.#handshake = handshakeWith(served, this, memory?.handshake);
    if (memory !== undefined) this.#input.putBack(memory.received);
  }

  /** Where the socket is to receive into. */
  readonly space = (): Buffer => this.#input.space();

  /** The socket has received. @returns false: stop reading */
  readonly received = (count: number): boolean => {
    this.#input.filled(count);
    // After the client's goodbye nothing is looked at, nor kept.
    if (this.#ending && !this.#stopping) this.#input.consume(this.#input.length);
    if (this.#held) return false;
    this.#run();
    if (this.#oneByOne && this.#export.soleClient) this.#anticipate();
    return !this.#paused;
  };

  /** Begins on a socket that reads through `space` and `received`. */
  start(socket: Socket): void {
    this.#socket = socket;
    this.#descriptor = descriptorOf(socket);
    this.#writer = new ReplyWriter(socket, () => this.#eased());
    this.#handshakeTimer = setTimeout(() => {
      drops.met('a client did not finish its handshake in time; dropped');
      socket.destroy();
    }, HANDSHAKE_LIMIT_MS);
    socket.on('error', () => undefined);
    socket.on('close', () => this.#close());
    if (this.#memory === undefined) this.#writer.say(this.#handshake.greeting());
    else this.#resume(this.#memory);
  }

  #resume({ unsent }: SessionMemory): void {
    this.#writer.say(unsent);
    this.attached = this.#handshake.agreement.attached;
    if (this.#handshake.state === 'transmission') this.#begin();
    this.#paused = true;
    this.#goOn();
  }

  /** Takes no more of what the client sends, until `release`; what is under way is answered. */
  hold(): void {
    this.#held = true;
    this.#paused = true;
    this.#socket.pause();
    // They leave as fast as the line takes their answers.
    for (const request of this.#background.takeBack()) request.complete(Errno.ESHUTDOWN);
  }

  /** Goes on after `hold`. */
  release(): void {
    this.#held = false;
    this.#input.putBack(Buffer.concat(this.#again));
    this.#again = [];
    this.#goOn();
  }

  /** Nothing of it is under way. */
  get isIdle(): boolean {
    return this.#underWay === 0;
  }

  /** The client has said goodbye, or the connection is being ended from here. */
  get isEnding(): boolean {
    return this.#ending || this.#closed;
  }

  /** What another process needs to go on with the connection; to be asked for when it is held and idle. */
  remember(): { descriptor: number; memory: SessionMemory } {
    this.#writer.flush();
    const { bytes, start, end } = this.#input;
    return {
      descriptor: this.#descriptor.fd,
      memory: {
        handshake: this.#handshake.memory,
        peer: this.peer,
        holds: this.#export.lender.holds(this),
        received: Buffer.concat([...this.#again, bytes.subarray(start, end)]),
        unsent: this.#writer.unsent,
      },
    };
  }

  /** The client's goodbye, or the end of the connection, counts now, though the socket is not closed yet. */
  endNow(): void {
    this.#close();
  }

  /** Requests that still come while others are under way get ESHUTDOWN. */
  stop(): void {
    this.#stopping = true;
    this.#ending = true;
    if (this.inTransmission) this.#endIfIdle();
    else this.#socket.destroy();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** The client sends its requests one by one, each when it has the last one's answer. */
  get #oneByOne(): boolean {
    return this.#taken <= 1 && this.#underWay === 0 && this.inTransmission && !this.#paused && !this.#closed;
  }

  #anticipate(): void {
    const until = performance.now() + ANTICIPATION_MS;
    do {
      const count = this.#anticipation.receive(this.#descriptor.fd, this.#input.space());
      if (count === 0) return;
      this.#input.filled(count);
      this.#run();
    } while (this.#oneByOne && performance.now() < until);
  }

  #run(): void {
    if (this.#closed || this.#held) return;
    this.#takenBefore += this.#taken;
    this.#taken = 0;
    const parser = this.#parser;
    this.#writer.hold();
    try {
      if (!this.inTransmission && !this.#haggle()) return;
      const began = performance.now();
      let weight = 0;
      while ((!this.#ending || this.#stopping) && parser.next(this.#input)) {
        this.#taken += 1;
        this.#take(parser);
        if (this.#heldBytes > this.#export.clientBytes || this.#isSlow) {
          this.#paused = true;
          break;
        }
        weight += 1 + Math.min(parser.length, NBD_MAX_PAYLOAD) / 65536;
        if (weight < TURN_WEIGHT) continue;
        weight = 0;
        if (performance.now() - began < TURN_MS) continue;
        this.#paused = true;
        this.#goOn();
        break;
      }
      if (this.#receiving.waits) this.#paused = true;
      if (this.#input.length > 0) this.#receiving.begun(this.#takenBefore + this.#taken, this.#stands);
    } catch (error) {
      // What is no breach of the protocol is our fault, not the client's.
      if (!(error instanceof ProtocolError)) log.error(String((error as Error).stack));
      this.#drop((error as Error).message);
      return;
    }
    this.#background.proceed();
    this.#export.disk.endBatch?.();
    this.#writer.flush();
    this.#endIfIdle();
  }

  /** The client does not take its replies. */
  get #isSlow(): boolean {
    return this.#limits.background ? this.#writer.overfull : this.#writer.backedUp;
  }

  /**
   * The client has not finished the request that came in after so many, and nothing here keeps it from that.
   */
  readonly #stands = (taken: number): boolean =>
    !this.#paused && this.#input.length > 0 && this.#takenBefore + this.#taken === taken;

  #drop(why: string): void {
    drops.met(`${why}; connection dropped`);
    this.#socket.destroy();
  }

  /** @returns true once the handshake is done. */
  #haggle(): boolean {
    const replies = this.#handshake.feed(this.#input);
    if (replies.length > 0) this.#writer.say(Buffer.concat(replies));
    const { state, agreement, closedBecause } = this.#handshake;
    // From its attaching on, not from its GO, the lease belongs to this connection.
    this.attached = agreement.attached;
    if (state === 'haggling') return false;
    if (state === 'closed') {
      clearTimeout(this.#handshakeTimer);
      log.debug(closedBecause);
      this.#ending = true;
      this.#socket.destroySoon();
      return false;
    }
    this.#begin();
    return true;
  }

  /** The handshake is done: requests follow. */
  #begin(): void {
    const { agreement } = this.#handshake;
    clearTimeout(this.#handshakeTimer);
    this.#parser.extended = agreement.extendedHeaders;
    const style = replyStyle(agreement);
    this.#replies = new Replies(this.#writer, style);
    this.#body = new PlainBody(this, this.#writer, style);
    this.#dispatch = new Dispatch(this.#export, this, this.#body);
    this.#limits = requestLimits(agreement, this.#export.disk.size, this.#export.readOnly);
    if (this.#limits.background) this.#writer.keepLittleUnsent();
    this.#input.resize(RECEIVE_BUFFER);
    this.inTransmission = true;
    this.#export.joined(this);
  }

  #take(parsed: RequestParser): void {
    if (parsed.type === Command.DISC) {
      this.#orderly = true;
      this.#ending = true;
      this.#stopping = false;
      // A client that has left waits for nothing any more.
      this.#export.lender.detach(this);
      return;
    }
    const request = new Request(this, parsed);
    if (this.#stopping) {
      this.#replies.status(request, Errno.ESHUTDOWN);
      return;
    }
    this.#underWay += 1;
    this.#heldBytes += request.cost;
    const fault = checkRequest(request, this.#limits);
    if (fault === undefined) {
      if (request.background) this.#background.add(request);
      else this.#dispatch.attempt(request, parsed.payload);
    } else {
      this.#logFault(fault.text);
      request.complete(fault.errno);
    }
  }

  finished(request: Request, errno: number, extents: readonly Extent[] | undefined): void {
    if (request.counted) {
      this.#export.writeEnded(errno === 0 && request.type === Command.WRITE ? request.length : 0);
    }
    if (request.background) this.#background.finished(request);
    if (this.#held && errno === Errno.ESHUTDOWN && request.type !== Command.WRITE) {
      this.#body.discard(request);
      this.#again.push(encodeAgain(request, this.#parser.extended));
    } else if (!this.#closed) {
      if (errno === 0 && request.returnsData) {
        this.#body.write(request);
        return;
      }
      if (errno === 0 && request.type === Command.BLOCK_STATUS) this.#replies.extents(request, extents ?? []);
      else {
        this.#body.discard(request);
        this.#replies.status(request, errno);
      }
    }
    this.answered(request);
  }

  answered(request: Request): void {
    this.#underWay -= 1;
    this.#heldBytes -= request.cost;
    this.#eased();
  }

  /** Something under way has ended: perhaps there is room for more, or nothing left to wait for. */
  #eased(): void {
    if (this.#closed) return;
    this.#background.proceed();
    if (this.#paused && !this.#held && this.#heldBytes < this.#export.clientBytes / 2 && !this.#isSlow)
      this.#goOn();
    if (this.#ending && this.#underWay === 0) setImmediate(() => this.#endIfIdle());
  }

  /** Reads on in the next turn of the loop. */
  #goOn(): void {
    if (this.#goingOn) return;
    this.#goingOn = true;
    setImmediate(() => {
      this.#goingOn = false;
      if (this.#held) return;
      this.#paused = false;
      this.#run();
      this.#readOn();
    });
  }

  #readOn(): void {
    if (!this.#paused && !this.#closed) this.#socket.resume();
  }

  #endIfIdle(): void {
    if (!this.#ending || this.#underWay > 0 || this.#closed || !this.inTransmission) return;
    this.#writer.flush();
    this.#socket.destroySoon();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#handshakeTimer);
    this.#writer.close();
    this.#background.takeBack();
    this.#receiving.close();
    this.#export.digests.forget(this);
    this.#export.left(this, this.#orderly);
  }

  #logFault(text: string): void {
    this.#faults += 1;
    // Each connection has a few of its own; one that comes again and again has no more.
    if (this.#faults <= LOGGED_FAULTS) faults.met(`client's ${text}`);
  }
}

/** The request as its client sent it, but for a payload, which is not kept. */
function encodeAgain(request: Request, extended: boolean): Buffer {
  const { type, flags, offset, length, cookieHigh, cookieLow } = request;
  const cookie = (BigInt(cookieHigh) << 32n) | BigInt(cookieLow);
  return (extended ? encodeExtendedRequest : encodeRequest)(type, flags, cookie, offset, length);
}
