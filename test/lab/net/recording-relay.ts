/** A TCP relay that keeps every byte that passes, either way: what somebody on the wire sees. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface RecordingRelay {
  readonly port: number;
  /** Everything that the server, or the client, has sent so far, over all connections. */
  fromServer(): Buffer;
  fromClient(): Buffer;
  close(): void;
}

export async function startRecordingRelay(to: number): Promise<RecordingRelay> {
  const recorded = { server: [] as Buffer[], client: [] as Buffer[] };
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    const upstream = connect({ host: '127.0.0.1', port: to, allowHalfOpen: true, noDelay: true });
    for (const [from, other, record] of [
      [client, upstream, recorded.client],
      [upstream, client, recorded.server],
    ] as const) {
      sockets.add(from);
      from.on('data', (chunk) => record.push(chunk));
      from.on('error', () => other.destroy());
      from.on('close', () => sockets.delete(from));
      from.pipe(other);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    fromServer: () => Buffer.concat(recorded.server),
    fromClient: () => Buffer.concat(recorded.client),
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
