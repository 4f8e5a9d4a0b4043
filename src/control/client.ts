/**
 * The other end of an export's control socket (protocol.ts): a connection that stays open, and the
 * errands that need but one.
 */
import { connect, type Socket } from 'node:net';
import type {
  ControlMethod,
  ControlRequest,
  ControlResponse,
  ExportStatus,
  StatusEvent,
} from './protocol.ts';

/** A stop waits for requests under way and for the disk, a takeover for the origin. */
const CALL_LIMIT_MS = 60_000;

/** What a method takes besides its name. */
export type ControlParameters = Omit<ControlRequest, 'id' | 'method'>;

export interface ControlClient {
  /**
   * @throws Error with the export's own words when it refuses; when it is gone; when it has not answered in
   * time.
   */
  call(method: ControlMethod, limitMs?: number, parameters?: ControlParameters): Promise<unknown>;
  status(): Promise<ExportStatus>;
  close(): void;
  /** Resolves when the connection has ended, from either side. */
  readonly closed: Promise<void>;
}

/** No export is there: no socket, or one that a dead process left behind. */
export class NobodyAnswers extends Error {
  readonly code: string;

  constructor(path: string, code: string) {
    super(`no export answers on ${path}: is it running?`);
    this.code = code;
  }
}

/** Calls one method. @throws Error of one line: NobodyAnswers, or the export's own */
export async function callExport(path: string, method: Exclude<ControlMethod, 'watch'>): Promise<unknown> {
  const client = await connectControl(path);
  try {
    return await client.call(method);
  } finally {
    client.close();
  }
}

/** @throws NobodyAnswers */
export async function exportStatus(path: string): Promise<ExportStatus> {
  return (await callExport(path, 'status')) as ExportStatus;
}

export interface Watch {
  close(): void;
  /** Resolves when the export has ended, or `close` was called. */
  readonly ended: Promise<void>;
}

/** Reports the status now, then after each change. @throws NobodyAnswers */
export async function watchExport(path: string, report: (status: ExportStatus) => void): Promise<Watch> {
  const client = await connectControl(path, report);
  report((await client.call('watch')) as ExportStatus);
  return { close: () => client.close(), ended: client.closed };
}

/**
 * Connects to an export.
 * @param onStatus called with each status that comes unasked, once `watch` has been called
 * @throws NobodyAnswers, or an Error of the system (EACCES)
 */
export async function connectControl(
  path: string,
  onStatus?: (status: ExportStatus) => void,
): Promise<ControlClient> {
  const socket = await connected(path);
  const waiting = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  let lastId = 0;
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      for (const { reject } of waiting.values()) reject(new Error(`the export on ${path} is gone`));
      waiting.clear();
      resolve();
    });
  });
  onLines(socket, (line) => {
    const message = JSON.parse(line) as ControlResponse | StatusEvent;
    if ('event' in message) {
      onStatus?.(message.status);
      return;
    }
    const waiter = waiting.get(message.id);
    waiting.delete(message.id);
    if ('error' in message) waiter?.reject(new Error(message.error));
    else waiter?.resolve(message.result);
  });

  const call = async (
    method: ControlMethod,
    limitMs = CALL_LIMIT_MS,
    parameters: ControlParameters = {},
  ): Promise<unknown> => {
    if (socket.destroyed) throw new Error(`the export on ${path} is gone`);
    const id = ++lastId;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        timer = setTimeout(() => {
          reject(new Error(`the export on ${path} did not answer '${method}' within ${limitMs / 1000} s`));
        }, limitMs);
        waiting.set(id, { resolve, reject });
        socket.write(`${JSON.stringify({ id, method, ...parameters })}\n`);
      });
    } finally {
      clearTimeout(timer);
      waiting.delete(id);
    }
  };
  return {
    call,
    status: async () => (await call('status')) as ExportStatus,
    close: () => socket.destroy(),
    closed,
  };
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => resolve(socket));
    // It stays: an error later is followed by 'close', which is all that counts then.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const { code } = error;
      reject(code === 'ENOENT' || code === 'ECONNREFUSED' ? new NobodyAnswers(path, code) : error);
    });
  });
}

function onLines(socket: Socket, take: (line: string) => void): void {
  let received = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    received += chunk;
    const lines = received.split('\n');
    received = lines.pop() ?? '';
    try {
      for (const line of lines) take(line);
    } catch {
      // Whoever is there, it is no export.
      socket.destroy();
    }
  });
}
