/**
 * Replies on their way to one socket. A reply is built where it will be sent from: `reserve` gives room in a
 * slab, into which header and data are put, at once or later; `send` queues it. What is queued in one turn of
 * the loop goes out together, neighbours in a slab as one piece. A slab is used again when all that was
 * reserved in it has left.
 *
 * What no client waits for is sent later (`sendLater`): when there is nothing else, and a piece at a time as
 * the kernel takes it, so that any other reply passes what has not been begun.
 *
 * A piece goes straight to the kernel by send(2), which costs a fraction of what a stream's write costs; what
 * the kernel does not take at once (the client reads slowly) goes through the stream, which waits for room,
 * and so does all that follows until it is empty.
 */
import type { Socket } from 'node:net';
import { type Descriptor, descriptorOf, unsentBytes } from '../../../system/descriptors/descriptor.ts';
import { sendNow, setSendBuffer } from '../../../system/syscalls.ts';
import { newSlab, SLAB_BYTES, type Slab, spareSlabs } from './slabs.ts';

/** So much is not held back until the end of the turn. */
const FLUSH_BYTES = 256 * 1024;
/**
 * So much may wait in the kernel for the client: a few large replies, each of which then leaves by one call.
 */
const SEND_BUFFER = 1024 * 1024;
/**
 * Where replies are sent later the kernel holds no more than this, half of it or less being data: a reply
 * that a guest waits for cannot pass it any more.
 */
const SMALL_SEND_BUFFER = 64 * 1024;
/** So much may wait in the stream before no more requests are taken. */
const OVERFULL_BYTES = 1024 * 1024;

interface Piece {
  slab: Slab;
  start: number;
  end: number;
  reservations: number;
}

export class ReplyWriter {
  readonly #socket: Socket;
  /** Called whenever the kernel has taken bytes. */
  readonly #drained: () => void;
  /** Where room is given from; none before the first reply. */
  #slab: Slab | undefined;
  #pieces: Piece[] = [];
  #later: Piece[] = [];
  /** Bytes of `#later`. */
  laterBytes = 0;
  #queuedBytes = 0;
  #scheduled = false;
  #held = false;
  #closed = false;
  readonly #descriptor: Descriptor;
  /** Given to the stream, and not known to have left. */
  readonly #streamed: Buffer[] = [];

  constructor(socket: Socket, drained: () => void) {
    this.#socket = socket;
    this.#drained = drained;
    this.#descriptor = descriptorOf(socket);
    // TCP finds its own size, by the length of the line.
    if (this.#descriptor.fd >= 0 && socket.remoteAddress === undefined)
      setSendBuffer(this.#descriptor.fd, SEND_BUFFER);
  }

  /** Sends bytes that are no reply to a request: of the handshake, or left by an earlier process. */
  say(bytes: Buffer): void {
    if (bytes.length > 0) this.#stream(bytes, this.#drained);
  }

  /**
   * What the kernel has not taken. To be called when all that is queued has been flushed; the socket must not
   * be used afterwards, because it would send the same.
   */
  get unsent(): Buffer {
    const length = unsentBytes(this.#socket);
    const streamed = Buffer.concat(this.#streamed);
    const later = this.#later.map(({ slab, start, end }) => slab.bytes.subarray(start, end));
    return Buffer.concat([streamed.subarray(streamed.length - length), ...later]);
  }

  /** Until `flush` is called nothing needs to be scheduled. */
  hold(): void {
    this.#held = true;
  }

  /**
   * Room for `length` bytes, at the returned slab's `used` - `length`. To be followed by `send` or `release`.
   */
  reserve(length: number): Slab {
    if (length > SLAB_BYTES) return take(newSlab(length), length);
    let slab = this.#slab;
    if (slab?.held === 0) slab.used = 0;
    if (slab === undefined || slab.used + length > SLAB_BYTES) {
      slab = spareSlabs.take();
      this.#slab = slab;
    }
    return take(slab, length);
  }

  /**
   * Queues what has been reserved at `start`; leaves at the end of this turn of the loop, or when `flush` is
   * called.
   */
  send(slab: Slab, start: number, end: number): void {
    if (this.#closed) {
      this.#leave(slab, 1);
      return;
    }
    const length = end - start;
    this.#queuedBytes += length;
    const last = this.#pieces.at(-1);
    if (last !== undefined && last.slab === slab && last.end === start) {
      last.end = end;
      last.reservations += 1;
    } else this.#pieces.push({ slab, start, end, reservations: 1 });
    if (this.#queuedBytes >= FLUSH_BYTES) this.#flush();
    else this.#schedule();
  }

  /** Queues what has been reserved at `start`, behind all that others queue with `send`. */
  sendLater(slab: Slab, start: number, end: number): void {
    if (this.#closed) {
      this.#leave(slab, 1);
      return;
    }
    this.#later.push({ slab, start, end, reservations: 1 });
    this.laterBytes += end - start;
    this.#schedule();
  }

  /** From now on there are replies that are sent later: little may wait in the kernel. */
  keepLittleUnsent(): void {
    if (this.#descriptor.fd >= 0 && this.#socket.remoteAddress === undefined)
      setSendBuffer(this.#descriptor.fd, SMALL_SEND_BUFFER);
  }

  #schedule(): void {
    if (this.#held || this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  /** Gives back what has been reserved and will not be sent. */
  release(slab: Slab): void {
    this.#leave(slab, 1);
  }

  /** Sends what is queued. */
  flush(): void {
    this.#held = false;
    this.#flush();
  }

  #flush(): void {
    if (this.#closed) return;
    if (this.#pieces.length > 0) {
      const pieces = this.#pieces;
      this.#pieces = [];
      this.#queuedBytes = 0;
      for (const piece of pieces) this.#sendPiece(piece);
    }
    if (this.laterBytes === 0) return;
    let sent = 0;
    for (; sent < this.#later.length && !this.backedUp; sent++) {
      const piece = this.#later[sent]!;
      this.laterBytes -= piece.end - piece.start;
      this.#sendPiece(piece);
    }
    if (sent === 0) return;
    this.#later.splice(0, sent);
    this.#drained();
  }

  #sendPiece(piece: Piece): void {
    const { slab, reservations } = piece;
    if (this.#socket.writableLength === 0 && !this.#socket.destroyed) {
      const sent = sendNow(this.#descriptor.fd, slab.address + piece.start, piece.end - piece.start);
      // An error is the stream's to report: it meets the same one.
      if (sent > 0) piece.start += sent;
      if (piece.start === piece.end) {
        this.#leave(slab, reservations);
        return;
      }
    }
    this.#stream(slab.bytes.subarray(piece.start, piece.end), () => {
      this.#leave(slab, reservations);
      this.#flush();
      this.#drained();
    });
  }

  #stream(bytes: Buffer, left: () => void): void {
    this.#streamed.push(bytes);
    this.#socket.write(bytes, () => {
      this.#streamed.shift();
      left();
    });
  }

  /** The kernel takes no more for now: what is answered meanwhile would fill memory, and leave no sooner. */
  get backedUp(): boolean {
    return this.#socket.writableLength > 0;
  }

  /** What waits is so much that requests of no kind may add to it. */
  get overfull(): boolean {
    return this.#socket.writableLength > OVERFULL_BYTES;
  }

  /** From now on replies go nowhere. */
  close(): void {
    this.#closed = true;
    this.#pieces = [];
    this.#later = [];
    this.laterBytes = 0;
    const slab = this.#slab;
    this.#slab = undefined;
    if (slab?.held === 0) spareSlabs.add(slab);
  }

  #leave(slab: Slab, reservations: number): void {
    slab.held -= reservations;
    if (slab.held > 0) return;
    slab.used = 0;
    if (slab !== this.#slab && slab.bytes.length === SLAB_BYTES) spareSlabs.add(slab);
  }
}

function take(slab: Slab, length: number): Slab {
  slab.used += length;
  slab.held += 1;
  return slab;
}
