/**
 * A relay to an origin that makes an older one of it: it knows no HASH. Requests for one arrive as a command
 * that nobody knows.
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { Command, NBD_EXTENDED_REQUEST_MAGIC } from '../../../src/nbd/constants.ts';

export interface ForgetfulRelay {
  readonly port: number;
  /** Requests that arrived as something else. */
  readonly replaced: number;
  close(): void;
}

const UNKNOWN = 0x58ff;

/** @param to port of the origin; extended headers must be agreed with it. */
export async function startForgetfulRelay(to: number): Promise<ForgetfulRelay> {
  const hash = Buffer.alloc(8);
  hash.writeUInt32BE(NBD_EXTENDED_REQUEST_MAGIC, 0);
  hash.writeUInt16BE(Command.XNBD_HASH, 6);
  const sockets = new Set<Socket>();
  let replaced = 0;
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ host: '127.0.0.1', port: to, noDelay: true });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        client.destroy();
        upstream.destroy();
      });
    }
    // A proxy sends no payloads and writes each request as one piece.
    client.on('data', (chunk: Buffer) => {
      for (let at = chunk.indexOf(hash); at !== -1; at = chunk.indexOf(hash, at + 1)) {
        chunk.writeUInt16BE(UNKNOWN, at + 6);
        replaced += 1;
      }
      upstream.write(chunk);
    });
    upstream.on('data', (chunk) => client.write(chunk));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    get replaced() {
      return replaced;
    },
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
