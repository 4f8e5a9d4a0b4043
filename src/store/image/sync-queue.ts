/**
 * fdatasync, in the thread pool, one at a time. A sync covers what was written before it began, so a
 * request that comes while one runs waits for the next; all that wait share that one.
 */
import { fdatasync } from 'node:fs';
import { Errno } from '../../nbd/constants.ts';
import type { Completion } from '../completion.ts';

export class SyncQueue {
  readonly #fd: number;
  readonly #failed: (error: NodeJS.ErrnoException) => number;
  #running = false;
  #waiting: Completion[] = [];
  /** Not 0 once a sync has failed: what was lost then is never reported again by the kernel. */
  #errno = 0;

  /** @param failed logs the first error */
  constructor(fd: number, failed: (error: NodeJS.ErrnoException) => number) {
    this.#fd = fd;
    this.#failed = failed;
  }

  sync(done: Completion): void {
    this.#waiting.push(done);
    if (!this.#running) this.#run();
  }

  #run(): void {
    const served = this.#waiting;
    this.#waiting = [];
    this.#running = true;
    fdatasync(this.#fd, (error) => {
      if (error !== null && this.#errno === 0) {
        this.#failed(error);
        this.#errno = Errno.EIO;
      }
      this.#running = false;
      if (this.#waiting.length > 0) this.#run();
      for (const done of served) done.complete(this.#errno);
    });
  }
}
