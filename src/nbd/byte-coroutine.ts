/**
 * Drives a parser that is written as a coroutine with bytes as they come from a socket.
 *
 * The parser yields what it needs next: a number, to be resumed with just so many bytes in a row, or a
 * buffer, to be resumed once that buffer is filled. Bytes that lie whole in one chunk are handed over in
 * place, valid until the parser yields again; a buffer is filled straight from the chunks. So payload is
 * copied once, to where it belongs, and headers are not copied at all.
 */
export type ByteCoroutine<T> = Generator<number | Buffer, T, Buffer>;

export class ByteDriver<T> {
  readonly #parser: ByteCoroutine<T>;
  /** What is collected for the present need when it does not lie in one chunk, or the parser's own buffer. */
  #collecting: Buffer | null = null;
  #collected = 0;
  #need = 0;
  #result: { value: T } | null = null;

  constructor(parser: ByteCoroutine<T>) {
    this.#parser = parser;
    this.#take(parser.next());
  }

  /** What the parser returned, once it has. */
  get result(): { value: T } | null {
    return this.#result;
  }

  /**
   * @returns how many bytes of the chunk were used: all of them, unless the parser has returned.
   * @throws whatever the parser throws.
   */
  feed(chunk: Buffer): number {
    let at = 0;
    while (this.#result === null) {
      if (this.#collecting === null && chunk.length - at >= this.#need) {
        const bytes = chunk.subarray(at, at + this.#need);
        at += this.#need;
        this.#take(this.#parser.next(bytes));
        continue;
      }
      if (at === chunk.length) return at;
      this.#collecting ??= Buffer.allocUnsafe(this.#need);
      const copied = chunk.copy(this.#collecting, this.#collected, at);
      this.#collected += copied;
      at += copied;
      if (this.#collected < this.#need) return at;
      const whole = this.#collecting;
      this.#collecting = null;
      this.#take(this.#parser.next(whole));
    }
    return at;
  }

  #take(step: IteratorResult<number | Buffer, T>): void {
    this.#collected = 0;
    if (step.done === true) {
      this.#result = { value: step.value };
    } else if (typeof step.value === 'number') {
      this.#need = step.value;
    } else {
      this.#need = step.value.length;
      this.#collecting = step.value.length > 0 ? step.value : null;
    }
  }
}
