/**
 * A small disk in memory that trusts nobody: a request past its end, or an answer that is given twice, is a
 * finding.
 */
import type { Disk, ZeroHow } from '../../src/export/disk.ts';
import type { Completion, ExtentsCompletion } from '../../src/store/completion.ts';

const SIZE = 300_000;

export class MemoryDisk implements Disk {
  readonly size = SIZE;
  readonly #content = Buffer.alloc(SIZE);
  readonly #late: () => boolean;

  /** @param late whether the next answer comes later */
  constructor(late: () => boolean) {
    this.#late = late;
  }

  read(into: Buffer, offset: number, done: Completion): void {
    this.#check(offset, into.length);
    this.#answer(() => {
      this.#content.copy(into, 0, offset);
      done.complete(0);
    });
  }

  write(data: Buffer, offset: number, _fua: boolean, done: Completion): void {
    this.#check(offset, data.length);
    data.copy(this.#content, offset);
    this.#answer(() => done.complete(0));
  }

  flush(done: Completion): void {
    this.#answer(() => done.complete(0));
  }

  trim(offset: number, length: number, _fua: boolean, done: Completion): void {
    this.#check(offset, length);
    this.#content.fill(0, offset, offset + length);
    this.#answer(() => done.complete(0));
  }

  zero(offset: number, length: number, how: ZeroHow, done: Completion): void {
    this.trim(offset, length, how.fua, done);
  }

  cache(offset: number, length: number, done: Completion): void {
    this.#check(offset, length);
    this.#answer(() => done.complete(0));
  }

  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void {
    this.#check(offset, length);
    const first = Math.ceil(length / 2);
    const extents = [{ length: first, flags: 0 }];
    if (!one && first < length) extents.push({ length: length - first, flags: 3 });
    this.#answer(() => done.complete(0, extents));
  }

  #check(offset: number, length: number): void {
    const fits = Number.isSafeInteger(offset) && offset >= 0 && length > 0 && offset + length <= SIZE;
    if (!fits) throw new Error(`the disk of ${SIZE} bytes is asked for ${length} bytes at ${offset}`);
  }

  #answer(answer: () => void): void {
    if (this.#late()) setImmediate(answer);
    else answer();
  }
}
