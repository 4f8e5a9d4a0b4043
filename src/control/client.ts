/**
 * The other end of an export's control socket (protocol.ts): a connection that stays open, and the
 * errands that need but one.
 */
import { connect, type Socket } from 'node:net';
import { log } from '../log/log.ts';
import type { ControlMethod, MethodParameters } from './methods.ts';
import type { ControlRequest, ControlResponse, StatusEvent } from './protocol.ts';
import { type ExportStatus, readStatus } from './status.ts';

/** A stop waits for requests under way and for the disk, a takeover for the origin. */
const CALL_LIMIT_MS = 60_000;

export interface ControlClient {
  /**
   * @throws Error with the export's own words when it refuses; when it is gone; when it has not answered in
   * time.
   */
  call(method: ControlMethod, limitMs?: number, parameters?: MethodParameters): Promise<unknown>;
  status(limitMs?: number): Promise<ExportStatus>;
  /** From now on `onStatus` hears of each change, and at once of what is so now. */
  watch(limitMs?: number): Promise<ExportStatus>;
  close(): void;
  /** Resolves when the connection has ended, from either side. */
  readonly closed: Promise<void>;
}

/** The export is there, and did not answer in time: its process hangs, or has been stopped. */
export class DoesNotAnswer extends Error {}

/** The export has ended, or closed the connection, while it was asked. */
class ExportGone extends Error {
  constructor(path: string) {
    super(`the export on ${path} is gone`);
  }
}

/** No export is there: no socket, or one that a dead process left behind. */
export class NobodyAnswers extends Error {
  readonly code: string;

  constructor(path: string, code: string) {
    super(`no export answers on ${path}: is it running?`);
    this.code = code;
  }
}

/** One status. @throws NobodyAnswers, or when it has not answered in time */
export async function exportStatus(path: string, limitMs = CALL_LIMIT_MS): Promise<ExportStatus> {
  const client = await connectControl(path);
  try {
    return await client.status(limitMs);
  } finally {
    client.close();
  }
}

/**
 * Connects to an export.
 * @param onStatus called with each status, once `watch` has been called; what it throws is logged, and cuts
 * no link
 * @throws NobodyAnswers, DoesNotAnswer, or an Error of the system (EACCES)
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
      for (const { reject } of waiting.values()) reject(new ExportGone(path));
      waiting.clear();
      resolve();
    });
  });
  const report = onStatus === undefined ? undefined : guarded(onStatus);
  onMessages(socket, (message) => {
    if ('event' in message) {
      report?.(readStatus(message.status));
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
    parameters: MethodParameters = {},
  ): Promise<unknown> => {
    if (socket.destroyed) throw new ExportGone(path);
    const id = ++lastId;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        timer = setTimeout(() => {
          reject(
            new DoesNotAnswer(`the export on ${path} did not answer '${method}' within ${limitMs / 1000} s`),
          );
        }, limitMs);
        waiting.set(id, { resolve, reject });
        const request: ControlRequest = { ...parameters, id, method };
        socket.write(`${JSON.stringify(request)}\n`);
      });
    } finally {
      clearTimeout(timer);
      waiting.delete(id);
    }
  };
  return {
    call,
    status: async (limitMs) => readStatus(await call('status', limitMs)),
    watch: async (limitMs) => {
      const status = readStatus(await call('watch', limitMs));
      report?.(status);
      return status;
    },
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
      if (code === 'ENOENT' || code === 'ECONNREFUSED') reject(new NobodyAnswers(path, code));
      // So many have connected already that the kernel holds no more of them.
      else if (code === 'EAGAIN') reject(new DoesNotAnswer(`the export on ${path} takes no connections`));
      else reject(error);
    });
  });
}

/**
 * A fault in what is done with a status must not cut the link that it came by: the export would look dead.
 * Told once in a row: the next status is half a second away.
 */
function guarded(onStatus: (status: ExportStatus) => void): (status: ExportStatus) => void {
  let told: string | undefined;
  return (status) => {
    try {
      onStatus(status);
      told = undefined;
    } catch (error) {
      const { name } = status;
      const { message } = error as Error;
      if (message === told) return;
      told = message;
      log.error(`export ${name}: its status (${status.state}) could not be followed: ${message}`, {
        export: name,
      });
    }
  };
}

function onMessages(socket: Socket, take: (message: ControlResponse | StatusEvent) => void): void {
  let received = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    received += chunk;
    const lines = received.split('\n');
    received = lines.pop() ?? '';
    for (const line of lines) {
      const message = parsed(line);
      if (message !== undefined) take(message);
      // It is no export that answers there.
      else socket.destroy();
    }
  });
}

function parsed(line: string): ControlResponse | StatusEvent | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  return typeof value === 'object' && value !== null ? (value as ControlResponse | StatusEvent) : undefined;
}

/**
 * Has a new process take an export over. @returns what answers afterwards.
 * @throws Error with the export's own words when it refuses, and goes on; or when nothing answers afterwards
 */
export async function restartExport(path: string): Promise<ExportStatus> {
  const client = await connectControl(path);
  try {
    await client.call('restart');
  } catch (error) {
    if (!(error instanceof ExportGone)) throw error;
  } finally {
    client.close();
  }
  // The socket that listens is the same one: the new process answers when it is ready.
  return await exportStatus(path);
}
