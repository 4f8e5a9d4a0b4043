import type { Completion } from './completion.ts';

/**
 * Completes another once `parts` parts have completed: with the first error among them, or 0. With no parts,
 * at once.
 */
export class Countdown implements Completion {
  readonly #whole: Completion;
  #parts: number;
  #errno = 0;

  constructor(parts: number, whole: Completion) {
    this.#parts = parts;
    this.#whole = whole;
    if (parts === 0) whole.complete(0);
  }

  complete(errno: number): void {
    if (this.#errno === 0) this.#errno = errno;
    if (--this.#parts === 0) this.#whole.complete(this.#errno);
  }
}
