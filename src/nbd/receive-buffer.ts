/**
 * The bytes that came in and are not parsed yet: one buffer a connection, into which the socket reads
 * directly and in which messages are parsed in place, so that a request costs no allocation and a payload no
 * copy.
 *
 *     bytes  [ ....parsed | start ...unparsed... end | space() ... ]
 *
 * A message that fits the buffer but not the room behind `start` is moved to the front; one larger than the
 * buffer gets a larger buffer until it has been parsed. The socket keeps the last `space()` until it fills
 * it, even when parsing went on meanwhile (after a pause) and things have moved: then `filled` moves the
 * bytes to where they belong.
 *
 * Memory for a message larger than the buffer is asked for (`Growth`): where it is refused for now, the
 * message waits as far as it has come.
 */
const LITTLE = 4096;

/** Counts what larger buffers take. */
export interface Growth {
  /** @returns false: not now. Asked again with the next `has`. */
  mayGrow(bytes: number): boolean;
  /** The larger buffer has been given up. */
  shrunk(): void;
}

const UNCOUNTED: Growth = { mayGrow: () => true, shrunk: () => undefined };

export class ReceiveBuffer {
  bytes: Buffer;
  /** Offset of the first byte not parsed yet. */
  start = 0;
  /** Offset behind the last byte received. */
  end = 0;
  #home: Buffer;
  #handed: Buffer;
  #handedAt = 0;
  readonly #growth: Growth;

  constructor(capacity: number, growth = UNCOUNTED) {
    this.#growth = growth;
    this.#home = Buffer.allocUnsafeSlow(capacity);
    this.bytes = this.#home;
    this.#handed = this.#home;
  }

  get length(): number {
    return this.end - this.start;
  }

  /** Where the next bytes are to be received; never empty. */
  space(): Buffer {
    if (this.start === this.end) {
      this.start = 0;
      this.end = 0;
      if (this.bytes !== this.#home) this.#growth.shrunk();
      this.bytes = this.#home;
    } else if (
      this.end === this.bytes.length ||
      (this.start > this.bytes.length / 2 && this.length < LITTLE)
    ) {
      this.#moveTo(this.start === 0 ? Buffer.allocUnsafeSlow(this.bytes.length * 2) : this.bytes);
    }
    this.#handed = this.bytes;
    this.#handedAt = this.end;
    return this.bytes.subarray(this.end);
  }

  /** `count` bytes have been put into the last `space()`. */
  filled(count: number): void {
    if (this.#handed !== this.bytes || this.#handedAt !== this.end) {
      this.#handed.copy(this.bytes, this.end, this.#handedAt, this.#handedAt + count);
    }
    this.end += count;
    this.#handedAt += count;
  }

  /**
   * True when `count` bytes are there, from `start` on; else makes sure that they will fit, if there may be
   * so much memory.
   */
  has(count: number): boolean {
    if (this.length >= count) return true;
    if (this.start + count > this.bytes.length) {
      if (count > this.bytes.length && !this.#growth.mayGrow(count)) return false;
      this.#moveTo(count > this.bytes.length ? Buffer.allocUnsafeSlow(count) : this.bytes);
    }
    return false;
  }

  consume(count: number): void {
    this.start += count;
  }

  /** Puts bytes in front of those that are not parsed yet. */
  putBack(bytes: Buffer): void {
    if (bytes.length === 0) return;
    const all = Buffer.concat([bytes, this.bytes.subarray(this.start, this.end)]);
    // What has been handed to the socket is received there, and moved here: so it is none of ours, and fits.
    const room = Buffer.allocUnsafeSlow(all.length + Math.max(this.#handed.length, this.#home.length));
    all.copy(room);
    this.bytes = room;
    this.start = 0;
    this.end = all.length;
  }

  /** From now on buffers hold `capacity` bytes. */
  resize(capacity: number): void {
    this.#home = Buffer.allocUnsafeSlow(Math.max(capacity, this.length));
    this.#moveTo(this.#home);
  }

  #moveTo(bytes: Buffer): void {
    this.bytes.copy(bytes, 0, this.start, this.end);
    this.bytes = bytes;
    this.end -= this.start;
    this.start = 0;
  }
}
