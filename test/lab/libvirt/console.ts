/*
 * What a guest prints, as one stream, wherever it runs.
 *
 * Each host's QEMU appends to a console file of its own. A guest runs in one place at a time, so the stream is the files' new parts in the
 * order in which they were written; where both have grown between two looks, the host where the guest was last goes first. A
 * line may begin in one file and end in the other.
 */
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const LOOK_EVERY_MS = 50;

export class Console {
  /** Every whole line so far. */
  readonly lines: string[] = [];
  readonly #files: { path: string; offset: number }[];
  readonly #onLine: (line: string) => void;
  #rest = '';
  #looking: Promise<void> = Promise.resolve();

  /** @param ended stops the watch */
  constructor(paths: readonly string[], onLine: (line: string) => void, ended: AbortSignal) {
    this.#files = paths.map((path) => ({ path, offset: 0 }));
    this.#onLine = onLine;
    const timer = setInterval(() => void this.look().catch(() => undefined), LOOK_EVERY_MS);
    timer.unref();
    ended.addEventListener('abort', () => clearInterval(timer));
  }

  /** Reads what is new. */
  look(): Promise<void> {
    this.#looking = this.#looking.catch(() => undefined).then(() => this.#read());
    return this.#looking;
  }

  /**
   * Waits for a line, from line `from` on, that matches.
   * @throws after `timeoutMs`, with the last lines seen
   */
  async find(pattern: RegExp, from = 0, timeoutMs = 60_000): Promise<string> {
    const deadline = Date.now() + timeoutMs;
    for (let next = from; ; ) {
      await this.look();
      for (; next < this.lines.length; next++) if (pattern.test(this.lines[next]!)) return this.lines[next]!;
      if (Date.now() > deadline)
        throw new Error(
          `the guest did not print ${pattern} in ${timeoutMs} ms; its last lines: ${this.tail()}`,
        );
      await sleep(LOOK_EVERY_MS);
    }
  }

  /** The last lines, for an error message. */
  tail(count = 5): string {
    return this.lines.slice(-count).join(' | ') || '(none)';
  }

  async #read(): Promise<void> {
    const grown = [];
    for (const file of this.#files) {
      const text = await newText(file);
      if (text !== '') grown.push(file);
      this.#rest += text;
    }
    const last = grown.at(-1);
    if (last) this.#files.sort((x, y) => Number(y === last) - Number(x === last));
    const lines = this.#rest.split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines.map((text) => text.replace(/\r$/, ''))) {
      this.lines.push(line);
      this.#onLine(line);
    }
  }
}

async function newText(file: { path: string; offset: number }): Promise<string> {
  let handle: Awaited<ReturnType<typeof open>>;
  try {
    handle = await open(file.path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
  try {
    const buffer = Buffer.alloc((await handle.stat()).size - file.offset);
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, file.offset);
    file.offset += bytesRead;
    return buffer.toString('latin1', 0, bytesRead);
  } finally {
    await handle.close();
  }
}
