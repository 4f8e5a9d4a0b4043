/**
 * A wide area network on one machine, for kernels without netem: a relay of byte streams with a round trip
 * time and a rate.
 *
 *     node test/lab/net/wan-relay.ts --listen 127.0.0.1:0 --to HOST:PORT --rtt-ms 20 --rate-mbit 100 \
 *         [--queue-kib N] [--end-with-stdin]
 *
 * `--listen` and `--to` also take the path of a unix socket. The first line on stdout is `ready HOST:PORT`
 * (or the path). Then it takes commands on stdin, one a line, and answers each with one line of JSON:
 *
 *     cut     resets every connection, and new ones are refused
 *     stall   nothing passes any more, connections stay
 *     resume  ends a cut or a stall
 *     stats   bytes that arrived in each direction, connections now
 *
 * Each direction is one line (line.ts) for all connections together. A new connection costs what it costs in
 * TCP: the client's bytes leave after one round trip, the server's after one and a half.
 */
import { connect, createServer, type ListenOptions, type NetConnectOpts, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createAlarm } from './alarm.ts';
import { createLine, type Line, type LineOptions } from './line.ts';

/** A receiver that reads slower than the line closes its window at this many bytes. */
const WINDOW = 1024 * 1024;

const { values: args } = parseArgs({
  options: {
    listen: { type: 'string', default: '127.0.0.1:0' },
    to: { type: 'string' },
    'rtt-ms': { type: 'string', default: '20' },
    'rate-mbit': { type: 'string', default: '100' },
    'queue-kib': { type: 'string' },
    'end-with-stdin': { type: 'boolean', default: false },
  },
});
if (args.to === undefined) throw new Error('--to HOST:PORT or --to PATH is missing');
const target: NetConnectOpts = address(args.to);
const rtt = number('rtt-ms', args['rtt-ms']);
const mbit = number('rate-mbit', args['rate-mbit']);
/** Bytes a millisecond. */
const rate = mbit === 0 ? Number.POSITIVE_INFINITY : mbit * 125;
const queue =
  args['queue-kib'] === undefined
    ? Math.max(256 * 1024, Number.isFinite(rate) ? rate * rtt : 16 * 1024 * 1024)
    : number('queue-kib', args['queue-kib']) * 1024;

const streams = new Set<Stream>();
let stalled = false;
const options: LineOptions = { delay: rtt / 2, rate, queue };
const up = createLine(options, () => regulate());
const down = createLine(options, () => regulate());
const alarm = createAlarm(pump);

/** One direction of one connection. */
interface Stream {
  from: Socket;
  to: Socket;
  line: Line;
  /** The connection is established as far as the sender can know. */
  open: boolean;
}

function pump(): void {
  if (stalled) return;
  const next = Math.min(up.pump(), down.pump());
  if (next !== Number.POSITIVE_INFINITY) alarm.set(next);
}

/** Reads from those whose line has room and whose receiver keeps up, and from nobody else. */
function regulate(): void {
  for (const { from, to, line, open } of streams) {
    if (open && !stalled && !line.full && to.writableLength < WINDOW) from.resume();
    else from.pause();
  }
}

function carry(stream: Stream): void {
  const { from, to, line } = stream;
  streams.add(stream);
  from.pause();
  from.on('data', (data) => {
    line.send(data, (piece) => {
      if (!to.destroyed && !to.write(piece)) regulate();
    });
    if (line.full) regulate();
    pump();
  });
  to.on('drain', regulate);
  from.on('end', () => {
    line.sendMark(() => {
      if (!to.destroyed) to.end();
    });
    pump();
  });
  from.on('error', () => undefined);
  from.on('close', (failed) => {
    streams.delete(stream);
    line.sendMark(() => {
      if (failed) reset(to);
      else if (!to.destroyed) to.end();
    });
    pump();
  });
}

function reset(socket: Socket): void {
  if (socket.remoteFamily === undefined) socket.destroy();
  else socket.resetAndDestroy();
}

async function join(client: Socket): Promise<void> {
  client.setNoDelay(true);
  const server = connect({ ...target, allowHalfOpen: true, noDelay: true } as NetConnectOpts);
  const outward: Stream = { from: client, to: server, line: up, open: false };
  const back: Stream = { from: server, to: client, line: down, open: false };
  carry(outward);
  carry(back);
  await sleep(rtt);
  outward.open = true;
  regulate();
  await sleep(rtt / 2);
  back.open = true;
  regulate();
}

const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => void join(client));
server.on('error', (error) => {
  process.stderr.write(`wan-relay: ${error.message}\n`);
  process.exit(1);
});

/** Listens, on the same address after a cut as before it. */
let listenOn: ListenOptions = address(args.listen);
function listen(then: () => void): void {
  server.listen(listenOn, () => {
    const bound = server.address();
    if (bound !== null && typeof bound === 'object') listenOn = { host: bound.address, port: bound.port };
    then();
  });
}

const commands: Record<string, (answer: (result: object) => void) => void> = {
  cut(answer) {
    for (const { from } of streams) reset(from);
    up.clear();
    down.clear();
    if (!server.listening) return answer({ done: 'cut' });
    server.close(() => answer({ done: 'cut' }));
  },
  stall(answer) {
    stalled = true;
    regulate();
    answer({ done: 'stall' });
  },
  resume(answer) {
    stalled = false;
    regulate();
    pump();
    if (server.listening) return answer({ done: 'resume' });
    listen(() => answer({ done: 'resume' }));
  },
  stats(answer) {
    answer({ upBytes: up.bytes, downBytes: down.bytes, connections: Math.ceil(streams.size / 2) });
  },
};

listen(() => {
  process.stdout.write(`ready ${listenOn.path ?? `${listenOn.host}:${listenOn.port}`}\n`);
});
const input = createInterface(process.stdin);
input.on('line', (line) => {
  const command = commands[line.trim()];
  const answer = (result: object): void => void process.stdout.write(`${JSON.stringify(result)}\n`);
  if (command === undefined) answer({ error: `'${line}' is none of ${Object.keys(commands).join(', ')}` });
  else command(answer);
});
input.on('close', () => {
  if (args['end-with-stdin']) process.exit(0);
});

function address(text: string): { path: string } | { host: string; port: number } {
  if (text.includes('/')) return { path: text };
  const colon = text.lastIndexOf(':');
  const host = text.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  return { host, port: number(`port of ${text}`, text.slice(colon + 1)) };
}

function number(what: string, text: string): number {
  const value = Number(text);
  if (text === '' || !Number.isFinite(value) || value < 0)
    throw new Error(`${what} '${text}' is not a number`);
  return value;
}
