/**
 * The door for libvirt's hooks: a unix socket that only root opens, one JSON line each way, one call a
 * connection (docs/reference.md). What a hook does is decided elsewhere; here every call gets an answer,
 * in time, whatever happens.
 */
import { createServer, type Server, type Socket } from 'node:net';
import * as v from 'valibot';
import { log } from '../../log/log.ts';
import { listenOnUnixSocket } from '../../system/unix-socket.ts';

const HookCallSchema = v.object({
  driver: v.picklist(['qemu', 'libxl']),
  guest: v.string(),
  op: v.string(),
  subop: v.string(),
  extra: v.string(),
  xml: v.string(),
});

export type HookCall = v.InferOutput<typeof HookCallSchema>;

export interface HookAnswer {
  exit: number;
  stdout: string;
  stderr: string;
}

/**
 * Does one hook's work. What it throws becomes the hook's stderr and exit 1; `signal` says that the time for
 * it is over.
 */
export type HookHandler = (call: HookCall, signal: AbortSignal) => Promise<HookAnswer>;

/** @throws Error when the line is no call. */
export function readHookCall(line: string): HookCall {
  return v.parse(HookCallSchema, JSON.parse(line));
}

/** The largest call, in characters: libvirt's own limit for a domain's XML lies below. */
const longestCall = 16 * 1024 * 1024;

export interface HookServerOptions {
  path: string;
  handle: HookHandler;
  /** After this long a hook is answered with an error, and its work told to undo itself. */
  limitMs: number;
}

/**
 * Listens, and answers until closed.
 * @throws Error when another daemon answers on the socket already.
 */
export async function serveHooks(options: HookServerOptions): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => takeCall(socket, options));
  await listenOnUnixSocket(server, options.path, 0o600);
  return server;
}

function takeCall(socket: Socket, options: HookServerOptions): void {
  let received = '';
  let taken = false;
  socket.setEncoding('utf8');
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: string) => {
    if (taken) return;
    const end = chunk.indexOf('\n');
    received += end === -1 ? chunk : chunk.slice(0, end);
    if (received.length > longestCall) {
      taken = true;
      socket.end(`${JSON.stringify(failure(`this call is longer than ${longestCall} characters`))}\n`);
    } else if (end !== -1) {
      taken = true;
      void answer(received, options).then((reply) => socket.end(`${JSON.stringify(reply)}\n`));
    }
  });
  socket.on('end', () => {
    if (!taken) socket.end();
  });
}

async function answer(line: string, options: HookServerOptions): Promise<HookAnswer> {
  let call: HookCall;
  try {
    call = readHookCall(line);
  } catch (error) {
    return failure(`xnbdd does not understand this hook call: ${(error as Error).message}`);
  }
  const timeUp = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<HookAnswer>((resolve) => {
    timer = setTimeout(() => {
      const message = `hook ${call.op} of ${call.guest} was not done within ${options.limitMs / 1000} s`;
      timeUp.abort(new Error(message));
      resolve(failure(`${message}: journalctl -u xnbdd tells more`));
    }, options.limitMs);
  });
  const work = options
    .handle(call, timeUp.signal)
    .catch((error: unknown) => failure((error as Error).message));
  const reply = await Promise.race([work, tooLate]);
  clearTimeout(timer);
  if (reply.exit !== 0) {
    log.warning(`hook ${call.op} of ${call.guest} refused: ${reply.stderr.trim()}`, {
      id: 'hook-refused',
      domain: call.guest,
    });
  }
  return reply;
}

function failure(message: string): HookAnswer {
  return { exit: 1, stdout: '', stderr: `xnbd: ${message}\n` };
}
