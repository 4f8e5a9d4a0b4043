/**
 * Replies on their way to one socket. A reply is built where it will be sent from: `reserve` gives room in a
 * slab, into which header and data are put, at once or later; `send` queues it. What is queued in one turn of
 * the loop goes out together, neighbours in a slab as one piece. A slab is used again when all that was
 * reserved in it has left.
 *
 * A piece goes straight to the kernel by send(2), which costs a fraction of what a stream's write costs; what
 * the kernel does not take at once (the client reads slowly) goes through the stream, which waits for room,
 * and so does all that follows until it is empty.
 */
import type { Socket } from 'node:net';
import { type Descriptor, descriptorOf } from '../../system/descriptor.ts';
import { sendNow, setSendBuffer } from '../../system/syscalls.ts';
import { newSlab, SLAB_BYTES, type Slab, spareSlabs } from './slabs.ts';

/** So much is not held back until the end of the turn. */
const FLUSH_BYTES = 256 * 1024;
/**
 * So much may wait in the kernel for the client: a few large replies, each of which then leaves by one call.
 */
const SEND_BUFFER = 1024 * 1024;

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
  #queuedBytes = 0;
  #scheduled = false;
  #held = false;
  #closed = false;
  readonly #descriptor: Descriptor;

  constructor(socket: Socket, drained: () => void) {
    this.#socket = socket;
    this.#drained = drained;
    this.#descriptor = descriptorOf(socket);
    // TCP finds its own size, by the length of the line.
    if (this.#descriptor.fd >= 0 && socket.remoteAddress === undefined)
      setSendBuffer(this.#descriptor.fd, SEND_BUFFER);
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
    else if (!this.#held && !this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#flush();
      });
    }
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
    if (this.#pieces.length === 0 || this.#closed) return;
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#queuedBytes = 0;
    for (const piece of pieces) this.#sendPiece(piece);
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
    this.#socket.write(slab.bytes.subarray(piece.start, piece.end), () => {
      this.#leave(slab, reservations);
      this.#drained();
    });
  }

  /** The kernel takes no more for now: what is answered meanwhile would fill memory, and leave no sooner. */
  get backedUp(): boolean {
    return this.#socket.writableLength > 0;
  }

  /** From now on replies go nowhere. */
  close(): void {
    this.#closed = true;
    this.#pieces = [];
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
