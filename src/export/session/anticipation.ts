/**
 * Waiting a moment for a client's next request before going back to the loop.
 *
 * A client that has one request under way at a time sends the next one some microseconds after the reply.
 * Going to sleep for these and being woken again costs more than the whole request does, most of all in a
 * virtual machine, where an idle processor is one that the host has taken away. So we look at the socket for
 * PATIENCE_MS, as QEMU's iothreads do (poll-max-ns), for as long as that meets with success: each time in
 * vain doubles the number of times that we do not even try, so that a client that thinks for longer, or needs
 * our processor to do so, costs nothing.
 */
import { receiveNow, SystemErrno } from '../../system/syscalls.ts';

/** What nbdkit spends on a request of 4 KiB is half of that. */
const PATIENCE_MS = 0.05;
const MOST_SKIPPED = 4096;

export class Anticipation {
  #skipping = 0;
  #left = 0;

  /** Receives into `into` what comes within the moment. @returns bytes; 0: nothing came */
  receive(fd: number, into: Buffer): number {
    if (this.#left > 0) {
      this.#left -= 1;
      return 0;
    }
    const until = performance.now() + PATIENCE_MS;
    do {
      const count = receiveNow(fd, into);
      if (count > 0) {
        this.#skipping = 0;
        return count;
      }
      // An end or an error is the stream's to find.
      if (count !== -SystemErrno.EAGAIN) return 0;
    } while (performance.now() < until);
    this.#skipping = Math.min(Math.max(1, this.#skipping * 2), MOST_SKIPPED);
    this.#left = this.#skipping;
    return 0;
  }
}
