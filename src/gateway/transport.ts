/**
 * How strangers reach the gateway: the one door to the network. What comes through it is a stream of bytes
 * and the name of the visitor that sends them. TLS comes later, in the middle of a visit (secure-visit.ts):
 * NBD begins in the clear.
 */
import { createServer, type Socket } from 'node:net';
import { type Address, formatAddress } from '../config/address.ts';
import { log } from '../log/log.ts';
import { Recurring } from '../log/recurring.ts';
import { type BulkConnection, carryBulk } from '../system/tcp.ts';

export interface Visitor {
  /** Another one, around the first, once the visit is secure. */
  stream: Socket;
  /** What carries the stream. */
  connection: BulkConnection;
  /** The peer's address, without port: what it is counted by. */
  address: string;
  /** For the log: address and port of the peer, and its certificate once it has shown one. */
  who: string;
  /** What its certificate calls it; empty before it has shown one, or where TLS is off. */
  identity: string;
}

export interface Transport {
  /** Where it listens; the port is the real one where 0 was asked for. */
  readonly address: Address;
  /** No new visitors. Those that are in stay. */
  close(): void;
}

/**
 * Beyond this many connections new ones are closed at once, so that the process never runs out of
 * descriptors.
 */
const MAX_CONNECTIONS = 1000;
/**
 * A host that lost power says no goodbye: its lease must not stay attached for the two hours that are the
 * kernel's default.
 */
const KEEPALIVE_MS = 15_000;

const drops = new Recurring('warning');

/** `::` is every address of the host, IPv4 too; on a kernel without IPv6 it is none. */
const ANY = '::';
const ANY_IPV4 = '0.0.0.0';

/**
 * Plain TCP: every client that reaches the port is let in.
 * @throws Error naming the address, when it cannot be listened on.
 */
export async function listenPlain(at: Address, visit: (visitor: Visitor) => void): Promise<Transport> {
  const options = {
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEPALIVE_MS,
  };
  const server = createServer(options, (stream) => {
    // So an IPv4 peer is called on a socket that has both.
    const address = (stream.remoteAddress ?? '?').replace(/^::ffff:(?=[\d.]+$)/i, '');
    visit({
      stream,
      connection: carryBulk(stream),
      address,
      identity: '',
      who: formatAddress({ host: address, port: stream.remotePort ?? 0 }),
    });
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.on('drop', (from) =>
    drops.met(`${from?.remoteAddress} turned away: ${MAX_CONNECTIONS} connections are open`, {
      kind: 'full',
    }),
  );
  const listen = (host: string): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host, port: at.port }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  try {
    await listen(at.host).catch(async (error: unknown) => {
      const { code } = error as NodeJS.ErrnoException;
      const hasNoIpv6 = code === 'EAFNOSUPPORT' || code === 'EADDRNOTAVAIL';
      if (at.host !== ANY || !hasNoIpv6) throw error;
      await listen(ANY_IPV4);
    });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const way = code === 'EADDRINUSE' ? 'another program has it' : message;
    throw new Error(`cannot listen on ${formatAddress(at)}: ${way}; set listen under [gateway]`);
  }
  server.on('error', (error) => log.error(`the port ${formatAddress(at)} fails: ${error.message}`));
  const bound = server.address();
  const port = bound !== null && typeof bound === 'object' ? bound.port : at.port;
  return { address: { host: at.host, port }, close: () => server.close() };
}
