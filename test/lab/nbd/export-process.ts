/** A real xnbd-export as a child process: started from source, ready when it says so, ended by pid. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { exportStatus } from '../../../src/control/client.ts';
import type { ControlMethod } from '../../../src/control/methods.ts';
import type { ExportStatus } from '../../../src/control/status.ts';
import { callExport } from './call-export.ts';

const program = join(import.meta.dirname, '../../../src/bin/xnbd-export.ts');

export interface ExportProcess {
  readonly child: ChildProcess;
  readonly socket: string;
  readonly uri: string;
  /** Everything that it wrote to stderr. */
  log(): string;
  status(): Promise<ExportStatus>;
  call(method: ControlMethod): Promise<unknown>;
  /** Waits until the status is as wished; fails after `limitMs`. */
  until(wish: (status: ExportStatus) => boolean, limitMs?: number): Promise<ExportStatus>;
  /** Waits until it has ended by itself. @returns the exit code */
  ended(): Promise<number | null>;
  /** Sends the signal and waits for the end. @returns the exit code, null after a signal */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

/**
 * @param socket path of the NBD socket; the others follow. @throws Error with its stderr when it ends before
 * it is ready.
 */
export async function startExport(
  kind: 'target' | 'proxy',
  name: string,
  socket: string,
  args: readonly string[],
): Promise<ExportProcess> {
  const child = spawn(process.execPath, [program, kind, name, '--socket', socket, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const exited = once(child, 'exit');
  const ready = createInterface(child.stdout)[Symbol.asyncIterator]().next();
  const first = await Promise.race([ready, exited.then(() => ({ done: true }))]);
  if (first.done === true) {
    await exited;
    throw new Error(stderr.trim());
  }
  const ctl = `${socket}.ctl`;
  return {
    child,
    socket,
    uri: `nbd+unix:///${name}?socket=${socket}`,
    log: () => stderr,
    status: () => exportStatus(ctl),
    call: (method) => callExport(ctl, method),
    until: async (wish, limitMs = 15_000) => {
      const deadline = performance.now() + limitMs;
      while (true) {
        const status = await exportStatus(ctl);
        if (wish(status)) return status;
        if (performance.now() > deadline) {
          throw new Error(`not so within ${limitMs} ms: ${JSON.stringify(status)}\n${stderr}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    ended: async () => {
      if (child.exitCode === null && child.signalCode === null) await exited;
      return child.exitCode;
    },
    end: async (signal = 'SIGTERM') => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(signal);
        await exited;
      }
      return child.exitCode;
    },
  };
}
