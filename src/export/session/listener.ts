/** The doors of an export: a unix socket, perhaps a TCP port. Each connection becomes a session. */
import { createServer, type Server, Socket, type SocketConstructorOpts } from 'node:net';
import type { Address } from '../../config/address.ts';
import { Recurring } from '../../log/recurring.ts';
import type { Peer } from '../../nbd/handshake/peer.ts';
import { descriptorOf, listeningDescriptor } from '../../system/descriptors/descriptor.ts';
import { isGateway, openToClients } from '../../system/socket-access.ts';
import { carryBulk } from '../../system/tcp.ts';
import { listenOnUnixSocket, takeListener } from '../../system/unix-socket.ts';
import type { Export } from '../export.ts';
import type { SessionMemory } from '../session-memory.ts';
import { Session } from './session.ts';

/** No client needs so many; one that opens more is hostile or broken. */
const MAX_CONNECTIONS = 256;
const KEEPALIVE_MS = 15_000;
/** What a TCP connection may hold that it has not sent. */
const UNSENT_BYTES = 256 * 1024;

/** Until the gateway tells whom it brings. */
const unnamedPeer: Peer = { identity: '', who: 'a peer whom the gateway did not name' };

const drops = new Recurring('warning');

export class Listener {
  readonly #export: Export;
  #unix: Server | undefined;
  #tcp: Server | undefined;
  #held = false;
  readonly #sessions = new Set<Session>();

  constructor(served: Export) {
    this.#export = served;
  }

  /** @param group may connect besides root; see socket-access.ts. */
  async listenUnix(path: string, group?: string): Promise<void> {
    const server = this.#server();
    this.#unix = server;
    await listenOnUnixSocket(server, path, 0o660);
    openToClients(path, group);
  }

  /** @returns the address that it listens on: port 0 lets the system choose. */
  async listenTcp(address: Address): Promise<Address> {
    const server = this.#server();
    this.#tcp = server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        const taken = error.code === 'EADDRINUSE';
        const why = taken ? 'another program listens there: stop it, or choose another port' : error.message;
        reject(new Error(`cannot listen on ${address.host}:${address.port}: ${why}`));
      });
      server.listen(address.port, address.host, resolve);
    });
    server.removeAllListeners('error');
    return this.#boundTo(address);
  }

  /** Listens on a unix socket that an earlier process had. @param path is removed with `close` */
  async takeUnix(fd: number, path: string): Promise<void> {
    this.#unix = this.#server();
    await takeListener(this.#unix, fd, path);
  }

  /** The same for a TCP port. @returns the address that it listens on */
  async takeTcp(fd: number, address: Address): Promise<Address> {
    this.#tcp = this.#server();
    await takeListener(this.#tcp, fd, null);
    return this.#boundTo(address);
  }

  /** A connection that an earlier process had: it goes on in the next turn of the loop. */
  takeConnection(fd: number, memory: SessionMemory): Session {
    const session = new Session(this.#export, memory);
    this.#start(session, new Socket({ fd, ...readsInto(session) }));
    return session;
  }

  /** The descriptors of what it listens on; -1: nothing. */
  get descriptors(): { nbd: number; tcp: number } {
    const of = (server?: Server) => (server === undefined ? -1 : listeningDescriptor(server));
    return { nbd: of(this.#unix), tcp: of(this.#tcp) };
  }

  /** Every connection that there is. */
  get sessions(): ReadonlySet<Session> {
    return this.#sessions;
  }

  /** No connection takes a request any more, nor does a new one, until `release`. */
  hold(): void {
    this.#held = true;
    for (const session of this.#sessions) session.hold();
  }

  release(): void {
    this.#held = false;
    for (const session of this.#sessions) session.release();
  }

  /** No new connections; those in their handshake are cut off. */
  close(): void {
    this.#unix?.close();
    this.#tcp?.close();
    for (const session of this.#sessions) if (!session.inTransmission) session.destroy();
  }

  #server(): Server {
    return createServer({ pauseOnConnect: true }, (socket) => this.#accept(socket));
  }

  #boundTo({ host, port }: Address): Address {
    const bound = this.#tcp!.address();
    return { host, port: typeof bound === 'object' && bound !== null ? bound.port : port };
  }

  #accept(accepted: Socket): void {
    if (this.#sessions.size >= MAX_CONNECTIONS && !this.#dropOldestHandshake()) {
      drops.met(`more than ${MAX_CONNECTIONS} connections; a new one is dropped`);
      accepted.destroy();
      return;
    }
    const session = new Session(this.#export);
    const socket = takeOver(accepted, session);
    if (isGateway(descriptorOf(socket).fd)) session.peer = unnamedPeer;
    this.#start(session, socket);
    if (this.#held) session.hold();
  }

  #start(session: Session, socket: Socket): void {
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_MS);
    if (socket.remoteAddress !== undefined) carryBulk(socket).limitUnsent(UNSENT_BYTES);
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
  return new Socket({ handle, ...readsInto(session) } as SocketConstructorOpts);
}

function readsInto(session: Session): object {
  return { onread: { buffer: session.space, callback: session.received } };
}
