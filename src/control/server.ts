/**
 * The control socket of an export (protocol.ts): one JSON object a line, for the daemon and the
 * administrator of this host.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { listeningDescriptor } from '../system/descriptors/descriptor.ts';
import { listenOnUnixSocket, takeListener } from '../system/unix-socket.ts';
import {
  type ControlMethod,
  type ExportMethods,
  isControlMethod,
  type MethodParameters,
  methodRows,
} from './methods.ts';
import type { ControlResponse, StatusEvent } from './protocol.ts';
import type { ExportStatus } from './status.ts';

const MAX_LINE_BYTES = 64 * 1024;
const COUNTERS_EVERY_MS = 500;

export interface ControlHandlers {
  status(): ExportStatus;
  /** Why nothing can be asked of it now but its status, one line, or null. */
  refuses(): string | null;
  /** What the other methods do. */
  methods: ExportMethods;
  /** A request has been answered. */
  answered(method: ControlMethod): void;
}

export class ControlServer {
  readonly #handlers: ControlHandlers;
  readonly #server: Server = createServer((socket) => this.#accept(socket));
  readonly #connections = new Set<Socket>();
  /** Methods that have been asked for and not answered. */
  underWay = 0;
  /** With the line that each has been sent last. */
  readonly #watchers = new Map<Socket, string>();
  /** Runs while a client watches. */
  #ticker: NodeJS.Timeout | undefined;
  #announcing = false;

  constructor(handlers: ControlHandlers) {
    this.#handlers = handlers;
  }

  /** @throws Error when the path is taken. */
  listen(path: string): Promise<void> {
    return listenOnUnixSocket(this.#server, path, 0o600);
  }

  /** Listens on a socket that an earlier process had. @param path is removed with `close` */
  take(fd: number, path: string): Promise<void> {
    return takeListener(this.#server, fd, path);
  }

  /** Of the listening socket. */
  get descriptor(): number {
    return listeningDescriptor(this.#server);
  }

  /** The state has changed: watchers hear of it at the end of this turn. */
  changed(): void {
    if (this.#announcing) return;
    this.#announcing = true;
    setImmediate(() => {
      this.#announcing = false;
      this.#send();
    });
  }

  /** Answers that are being written now go out first. */
  async close(): Promise<void> {
    this.#stopTicking();
    this.#server.close();
    await nextTurn();
    for (const socket of this.#connections) socket.destroySoon();
    await nextTurn();
  }

  #watch(socket: Socket): void {
    this.#watchers.set(socket, '');
    this.#ticker ??= setInterval(() => this.#send(), COUNTERS_EVERY_MS).unref();
  }

  #stopTicking(): void {
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  #send(): void {
    if (this.#watchers.size === 0) return;
    const event: StatusEvent = { event: 'status', status: this.#handlers.status() };
    const line = `${JSON.stringify(event)}\n`;
    for (const [socket, lastSent] of this.#watchers) {
      // A watcher that does not read gets a later one instead.
      if (line === lastSent || socket.writableLength > 0) continue;
      this.#watchers.set(socket, line);
      socket.write(line);
    }
  }

  #accept(socket: Socket): void {
    let received = '';
    this.#connections.add(socket);
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      received += chunk;
      const lines = received.split('\n');
      received = lines.pop() ?? '';
      for (const line of lines) void this.#answer(socket, line);
      if (received.length > MAX_LINE_BYTES) socket.destroy();
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      this.#connections.delete(socket);
      this.#watchers.delete(socket);
      if (this.#watchers.size === 0) this.#stopTicking();
    });
  }

  async #answer(socket: Socket, line: string): Promise<void> {
    if (line.trim() === '') return;
    const request = parseRequest(line);
    if (typeof request === 'string') {
      reply(socket, { id: 0, error: request });
      return;
    }
    const { id, method, parameters } = request;
    try {
      if (!isControlMethod(method))
        throw new Error(
          `no method '${method.slice(0, 40)}': there are ${methodRows.map(([name]) => name).join(', ')}`,
        );
      this.underWay += 1;
      const result = this.#result(socket, method, parameters).finally(() => (this.underWay -= 1));
      reply(socket, { id, result: await result });
      this.#handlers.answered(method);
      if (method !== 'status' && method !== 'watch') this.changed();
    } catch (error) {
      reply(socket, { id, error: (error as Error).message });
    }
  }

  async #result(socket: Socket, method: ControlMethod, parameters: MethodParameters): Promise<unknown> {
    if (method === 'watch') this.#watch(socket);
    if (method === 'watch' || method === 'status') return this.#handlers.status();
    const refusal = this.#handlers.refuses();
    if (refusal !== null) throw new Error(refusal);
    return (await this.#handlers.methods[method](parameters)) ?? null;
  }
}

function reply(socket: Socket, response: ControlResponse): void {
  if (!socket.destroyed) socket.write(`${JSON.stringify(response)}\n`);
}

interface Request {
  id: number;
  method: string;
  parameters: MethodParameters;
}

/** @returns what is wrong with it, when it is no request. */
function parseRequest(line: string): Request | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return 'a request is one line of JSON: {"id":1,"method":"status"}';
  }
  if (typeof value === 'object' && value !== null && 'id' in value && 'method' in value) {
    const { id, method, ...parameters } = value;
    if (typeof id === 'number' && typeof method === 'string') return { id, method, parameters };
  }
  return 'a request has a number "id" and a string "method"';
}
