/** A real xnbd-export as a child process: started from source, ready when it says so, ended by pid. */
import type { ChildProcess } from 'node:child_process';
import { exportStatus, restartExport } from '../../../src/control/client.ts';
import type { ControlMethod } from '../../../src/control/methods.ts';
import type { ExportStatus } from '../../../src/control/status.ts';
import { startProgram } from '../processes.ts';
import { callExport } from './call-export.ts';

export interface ExportProcess {
  readonly child: ChildProcess;
  readonly socket: string;
  readonly uri: string;
  /** Everything that it has written. */
  log(): string;
  status(): Promise<ExportStatus>;
  call(method: ControlMethod): Promise<unknown>;
  /** Has a new process take its place. @returns the pid of that; it is not `child` any more */
  restart(): Promise<number>;
  /** Waits until the status is as wished; fails after `limitMs`. */
  until(wish: (status: ExportStatus) => boolean, limitMs?: number): Promise<ExportStatus>;
  /** Waits until it has ended by itself. @returns the exit code */
  ended(): Promise<number | null>;
  /** Sends the signal and waits for the end. @returns the exit code, null after a signal */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

/**
 * @param socket path of the NBD socket; the others follow. @throws Error with what it wrote when it ends
 * before it is ready.
 */
export async function startExport(
  kind: 'target' | 'proxy',
  name: string,
  socket: string,
  args: readonly string[],
): Promise<ExportProcess> {
  const running = await startProgram('xnbd-export', [kind, name, '--socket', socket, ...args], {
    log: `${socket}.log`,
    ready: `ready ${name}`,
  });
  const child = running.process;
  const ctl = `${socket}.ctl`;
  return {
    child,
    socket,
    uri: `nbd+unix:///${name}?socket=${socket}`,
    log: () => running.said(),
    status: () => exportStatus(ctl),
    call: (method) => callExport(ctl, method),
    restart: async () => (await restartExport(ctl)).pid,
    until: async (wish, limitMs = 15_000) => {
      const deadline = performance.now() + limitMs;
      while (true) {
        const status = await exportStatus(ctl);
        if (wish(status)) return status;
        if (performance.now() > deadline) {
          throw new Error(`not so within ${limitMs} ms: ${JSON.stringify(status)}\n${running.said()}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    ended: async () => {
      await running.ended;
      return child.exitCode;
    },
    end: async (signal) => {
      await running.end(signal, 30_000);
      return child.exitCode;
    },
  };
}
