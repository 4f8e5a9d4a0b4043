/** Starts the project's programs from source, and ends them by process id. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

const BIN = new URL('../src/bin/', import.meta.url).pathname;

export class Programs {
  readonly #children: ChildProcess[] = [];

  /**
   * Starts `src/bin/NAME.ts` and waits until a line of its stdout or stderr contains `ready`.
   * @throws Error with what it said last, when it ends instead.
   */
  async start(name: string, args: readonly string[], ready: string): Promise<ChildProcess> {
    const child = spawn(process.execPath, [`${BIN}${name}.ts`, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#children.push(child);
    const said: string[] = [];
    const isReady = new Promise<boolean>((resolve) => {
      for (const stream of [child.stdout, child.stderr]) {
        createInterface(stream).on('line', (line) => {
          said.push(line);
          if (said.length > 20) said.shift();
          if (line.includes(ready)) resolve(true);
        });
      }
      child.once('close', () => resolve(false));
    });
    if (await isReady) return child;
    throw new Error(`${name} ${args.slice(0, 2).join(' ')} does not start:\n${said.join('\n')}`);
  }

  async end(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
    await exit;
    clearTimeout(timer);
  }

  async endAll(): Promise<void> {
    await Promise.all(this.#children.map((child) => this.end(child)));
  }
}
