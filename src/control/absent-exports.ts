/**
 * How the gateway, which may not read records, asks the daemon why an export does not run: a unix socket in
 * the run directory, one JSON line each way, one question a connection.
 *
 *     -> {"name":"vm1-vda","asking":{"uuid":"...","generation":2,"lease":"..."}}
 *     <- {"kind":"retired","text":"export 'vm1-vda' is retired: its disk has moved to another host"}
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import * as v from 'valibot';
import type { Absent, AskingLease } from '../store/records/absent.ts';
import { openToGateway } from '../system/socket-access.ts';
import { listenOnUnixSocket } from '../system/unix-socket.ts';

const ANSWER_LIMIT_MS = 5000;
const LONGEST_LINE = 4096;

const Question = v.object({
  name: v.string(),
  asking: v.optional(v.object({ uuid: v.nullable(v.string()), generation: v.number(), lease: v.string() })),
});
const Answer = v.object({ kind: v.picklist(['unknown', 'sleeping', 'retired', 'void']), text: v.string() });

/** No export's: their names do not begin so. */
function absentExportsSocket(run: string): string {
  return join(run, '.absent.sock');
}

/** Answers until closed. @throws Error when another daemon has the socket */
export async function serveAbsentExports(
  run: string,
  answer: (name: string, asking?: AskingLease) => Promise<Absent>,
): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    void oneLine(socket)
      .then((line) => {
        const { name, asking } = v.parse(Question, JSON.parse(line));
        return answer(name, asking);
      })
      .then(
        (absent) => socket.end(`${JSON.stringify(absent)}\n`),
        () => socket.destroy(),
      );
  });
  const path = absentExportsSocket(run);
  await listenOnUnixSocket(server, path, 0o660);
  openToGateway(path);
  return server;
}

/** @throws Error when no daemon answers */
export async function askWhyAbsent(run: string, name: string, asking?: AskingLease): Promise<Absent> {
  const socket = connect(absentExportsSocket(run));
  try {
    const { uuid, generation, lease } = asking ?? {};
    socket.write(`${JSON.stringify({ name, ...(asking && { asking: { uuid, generation, lease } }) })}\n`);
    return v.parse(Answer, JSON.parse(await oneLine(socket)));
  } finally {
    socket.destroy();
  }
}

/**
 * The first line that comes. @throws Error when the other end hangs up, is silent, or does not end its line
 */
function oneLine(socket: Socket): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = '';
    socket.setEncoding('utf8').setTimeout(ANSWER_LIMIT_MS, () => socket.destroy());
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('no answer')));
    socket.on('data', (chunk: string) => {
      received += chunk;
      const end = received.indexOf('\n');
      if (end !== -1) resolve(received.slice(0, end));
      else if (received.length > LONGEST_LINE) socket.destroy();
    });
  });
}
