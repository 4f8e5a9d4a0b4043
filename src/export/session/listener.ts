/** The doors of an export: a unix socket, perhaps a TCP port. Each connection becomes a session. */
import { createServer, type Server, Socket, type SocketConstructorOpts } from 'node:net';
import type { Address } from '../../config/address.ts';
import { Recurring } from '../../log/recurring.ts';
import { giveToQemu } from '../../system/socket-group.ts';
import { listenOnUnixSocket } from '../../system/unix-socket.ts';
import type { Export } from '../export.ts';
import { Session } from './session.ts';

/** No client needs so many; one that opens more is hostile or broken. */
const MAX_CONNECTIONS = 256;
const KEEPALIVE_MS = 15_000;

const drops = new Recurring('warning');

export class Listener {
  readonly #export: Export;
  readonly #servers: Server[] = [];
  readonly #sessions = new Set<Session>();

  constructor(served: Export) {
    this.#export = served;
  }

  /** @param group may connect besides root; see socket-group.ts. */
  async listenUnix(path: string, group?: string): Promise<void> {
    const server = this.#server();
    await listenOnUnixSocket(server, path, 0o660);
    giveToQemu(path, group);
  }

  /** @returns the address that it listens on: port 0 lets the system choose. */
  async listenTcp(address: Address): Promise<Address> {
    const server = this.#server();
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        const taken = error.code === 'EADDRINUSE';
        const why = taken ? 'another program listens there: stop it, or choose another port' : error.message;
        reject(new Error(`cannot listen on ${address.host}:${address.port}: ${why}`));
      });
      server.listen(address.port, address.host, resolve);
    });
    server.removeAllListeners('error');
    const bound = server.address();
    return {
      host: address.host,
      port: typeof bound === 'object' && bound !== null ? bound.port : address.port,
    };
  }

  /** No new connections; those in their handshake are cut off. */
  close(): void {
    for (const server of this.#servers) server.close();
    for (const session of this.#sessions) if (!session.inTransmission) session.destroy();
  }

  #server(): Server {
    const server = createServer({ pauseOnConnect: true }, (socket) => this.#accept(socket));
    this.#servers.push(server);
    return server;
  }

  #accept(accepted: Socket): void {
    if (this.#sessions.size >= MAX_CONNECTIONS && !this.#dropOldestHandshake()) {
      drops.met(`more than ${MAX_CONNECTIONS} connections; a new one is dropped`);
      accepted.destroy();
      return;
    }
    const session = new Session(this.#export);
    const socket = takeOver(accepted, session);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_MS);
    this.#sessions.add(session);
    socket.once('close', () => this.#sessions.delete(session));
    session.start(socket);
  }

  /**
   * A client that has said nothing makes room for one that may. @returns false when all connections are past
   * their handshake
   */
  #dropOldestHandshake(): boolean {
    for (const session of this.#sessions) {
      if (session.inTransmission) continue;
      session.destroy();
      this.#sessions.delete(session);
      return true;
    }
    return false;
  }
}

/**
 * A socket on the same connection that reads into the session's own buffer. Node offers that (`onread`) only
 * to code that makes a socket, not for accepted ones; so the accepted one gives up its handle.
 */
function takeOver(accepted: Socket, session: Session): Socket {
  const holder = accepted as unknown as { _handle: unknown };
  const handle = holder._handle;
  holder._handle = null;
  accepted.destroy();
  const options = { handle, onread: { buffer: session.space, callback: session.received } };
  return new Socket(options as SocketConstructorOpts);
}
