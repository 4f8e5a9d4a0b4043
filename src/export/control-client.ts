/** The other end of an export's control socket (control-protocol.ts): ask once, or watch. */
import { connect, type Socket } from 'node:net';
import type { ControlMethod, ControlResponse, ExportStatus, StatusEvent } from './control-protocol.ts';

/** A stop waits for requests under way and for the disk, a takeover for the origin. */
const CALL_LIMIT_MS = 60_000;

/** Calls one method. @throws Error of one line: the export's own, or that nobody answers. */
export async function callExport(path: string, method: Exclude<ControlMethod, 'watch'>): Promise<unknown> {
  const socket = await open(path);
  try {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(
          new Error(`the export on ${path} did not answer '${method}' within ${CALL_LIMIT_MS / 1000} s`),
        );
      }, CALL_LIMIT_MS);
      socket.once('close', () => {
        clearTimeout(timer);
        reject(new Error(`the export on ${path} ended without an answer to '${method}'`));
      });
      eachLine(socket, (message) => {
        if ('event' in message) return;
        clearTimeout(timer);
        if ('error' in message) reject(new Error(message.error));
        else resolve(message.result);
      });
      socket.write(`${JSON.stringify({ id: 1, method })}\n`);
    });
  } finally {
    socket.destroy();
  }
}

export async function exportStatus(path: string): Promise<ExportStatus> {
  return (await callExport(path, 'status')) as ExportStatus;
}

export interface Watch {
  close(): void;
  /** Resolves when the export has ended, or `close` was called. */
  readonly ended: Promise<void>;
}

/** Reports the status now, then after each change. @throws Error when nobody answers */
export async function watchExport(path: string, report: (status: ExportStatus) => void): Promise<Watch> {
  const socket = await open(path);
  const ended = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
  });
  eachLine(socket, (message) => {
    if ('event' in message) report(message.status);
    else if ('result' in message) report(message.result as ExportStatus);
  });
  socket.write(`${JSON.stringify({ id: 1, method: 'watch' })}\n`);
  return { ended, close: () => socket.destroy() };
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => resolve(socket));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const gone = error.code === 'ENOENT' || error.code === 'ECONNREFUSED';
      reject(
        new Error(
          gone ? `no export answers on ${path}: is it running?` : `control socket ${path}: ${error.message}`,
        ),
      );
    });
  });
}

function eachLine(socket: Socket, take: (message: ControlResponse | StatusEvent) => void): void {
  let received = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    received += chunk;
    const lines = received.split('\n');
    received = lines.pop() ?? '';
    for (const line of lines) {
      try {
        take(JSON.parse(line) as ControlResponse | StatusEvent);
      } catch {
        socket.destroy();
      }
    }
  });
}
