/**
 * Listening on a unix socket path: one that a dead process left behind is replaced, one where a process
 * answers is not.
 */
import { chmodSync, existsSync, lstatSync, rmSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { basename, dirname } from 'node:path';

/** sun_path, its final zero not counted. */
const MAX_PATH_BYTES = 107;

/** @param mode permissions of the socket. @throws Error of one line, naming the path. */
export async function listenOnUnixSocket(server: Server, path: string, mode: number): Promise<void> {
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) {
    throw new Error(`socket path ${path} is longer than ${MAX_PATH_BYTES} bytes: choose a shorter one`);
  }
  // Node reports EACCES for it.
  if (!existsSync(dirname(path)))
    throw new Error(`cannot listen on socket ${path}: there is no directory ${dirname(path)}`);
  await removeStaleSocket(path);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(new Error(`cannot listen on socket ${path}: ${error.message}`)));
    // The socket is made within listen(): at no time may more people connect than `mode` says.
    const umask = process.umask(0o777 & ~mode);
    server.listen(path, resolve);
    process.umask(umask);
  });
  server.removeAllListeners('error');
  chmodSync(path, mode);
}

/**
 * Listens on a socket that another process has bound to `path` and listened on. Node removes no path that it
 * has not made: so `close` does. @throws Error of one line, naming the path
 */
export async function takeListener(server: Server, fd: number, path: string | null): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(new Error(`cannot listen on ${path}: ${error.message}`)));
    server.listen({ fd }, resolve);
  });
  server.removeAllListeners('error');
  if (path === null) return;
  const close = server.close.bind(server);
  server.close = (done) => {
    if (server.listening) rmSync(path, { force: true });
    return close(done);
  };
}

async function removeStaleSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new Error(`${path} exists and is not a socket: choose another socket path, or remove it`);
  if (await answers(path)) {
    throw new Error(
      `socket ${path} is taken: another process serves ${basename(path)}; stop it, or choose another socket path`,
    );
  }
  rmSync(path, { force: true });
}

/** Whether a process listens there. */
export function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // EAGAIN: its backlog is full, so a process is there.
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'EAGAIN'));
  });
}
