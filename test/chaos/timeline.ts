/** What happened in a story, with its times: told when it ends badly. */
export class Timeline {
  readonly #began = performance.now();
  readonly #lines: string[] = [];
  readonly #print: boolean;

  /** @param print each line at once */
  constructor(print: boolean) {
    this.#print = print;
  }

  note(what: string): void {
    const line = `${((performance.now() - this.#began) / 1000).toFixed(3).padStart(9)} s  ${what}`;
    this.#lines.push(line);
    if (this.#print) console.log(line);
  }

  get lines(): readonly string[] {
    return this.#lines;
  }
}
