/** One transition at a time. */
export class Transitions {
  #last: Promise<unknown> = Promise.resolve();

  /** @returns what the step returns, once those before it are done */
  take<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#last.then(step);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** Resolves when none is under way. */
  async settled(): Promise<void> {
    await this.#last;
  }
}
