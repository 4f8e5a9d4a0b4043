/**
 * A bulk TCP flow of somebody else: `foreign-flow.ts send HOST:PORT` is met by `foreign-flow.ts take HOST:PORT`,
 * which prints a line with the bytes that have come, ten times a second.
 */
import { connect, createServer } from 'node:net';

const [role, address = ''] = process.argv.slice(2);
const [host, port] = address.split(':');
const at = { host: host!, port: Number(port) };
const CHUNK = Buffer.alloc(64 * 1024, 0xa5);

if (role === 'send') {
  const socket = connect(at);
  const fill = (): void => {
    while (socket.write(CHUNK));
  };
  socket.on('connect', fill).on('drain', fill);
  socket.on('error', () => process.exit(1));
} else {
  let bytes = 0;
  const server = createServer((socket) => {
    socket.on('data', (data) => (bytes += data.length)).on('error', () => undefined);
  });
  server.listen(at, () => process.stdout.write('ready\n'));
  setInterval(() => process.stdout.write(`${bytes}\n`), 100);
}
