/** The disk of a target: every block is in the local image. */
import type { Completion, ExtentsCompletion } from '../store/completion.ts';
import type { Image } from '../store/image/image.ts';
import type { Disk, ZeroHow } from './disk.ts';

export class LocalDisk implements Disk {
  readonly size: number;
  readonly #image: Image;

  constructor(image: Image) {
    this.#image = image;
    this.size = image.size;
  }

  endBatch(): void {
    this.#image.endBatch();
  }

  read(into: Buffer, offset: number, done: Completion): void {
    this.#image.read(into, offset, done);
  }

  write(data: Buffer, offset: number, fua: boolean, done: Completion): void {
    this.#image.write(data, offset, fua ? this.#thenSync(done) : done);
  }

  flush(done: Completion): void {
    this.#image.sync(done);
  }

  trim(offset: number, length: number, fua: boolean, done: Completion): void {
    this.#image.punch(offset, length, fua ? this.#thenSync(done) : done);
  }

  zero(offset: number, length: number, how: ZeroHow, done: Completion): void {
    const then = how.fua ? this.#thenSync(done) : done;
    this.#image.zero(offset, length, how, then);
  }

  cache(offset: number, length: number, done: Completion): void {
    this.#image.willNeed(offset, length, done);
  }

  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void {
    done.complete(0, this.#image.extents(offset, length, one));
  }

  #thenSync(done: Completion): Completion {
    return {
      complete: (errno) => {
        if (errno === 0) this.#image.sync(done);
        else done.complete(errno);
      },
    };
  }
}
