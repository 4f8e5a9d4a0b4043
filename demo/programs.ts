/** Our programs in a demo: started from source, and all ended when it is over. */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { type Running, startProgram } from '../test/lab/processes.ts';

export class Programs {
  readonly #dir: string;
  readonly #started: Running[] = [];

  /** @param dir has what each of them writes */
  constructor(dir: string) {
    this.#dir = dir;
  }

  /** @throws Error with what it said, when it ends before it has said `ready` */
  async start(name: string, args: readonly string[], ready: string): Promise<ChildProcess> {
    const log = join(this.#dir, `${name}-${this.#started.length}.log`);
    const running = await startProgram(name, args, { log, ready });
    this.#started.push(running);
    return running.process;
  }

  async endAll(): Promise<void> {
    await Promise.all(this.#started.map((running) => running.end('SIGTERM', 10_000)));
  }
}
