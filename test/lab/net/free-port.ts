/**
 * TCP ports for programs that are told where to listen, and that may have to listen there again after they
 * were killed.
 *
 * A port of the kernel's choice, found by listening on 0, is no such port: once it is closed, the next
 * outgoing connection or the next program that listens on 0 may have it. These are below the range that the
 * kernel chooses from, and each process has some of its own, by its id.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';

/** Above the well-known ones, NBD's 10809 among them; the kernel chooses from 32768 on. */
const FIRST = 12_288;
const LAST = 32_767;
const EACH = 64;

const first = FIRST + (process.pid % Math.floor((LAST + 1 - FIRST) / EACH)) * EACH;
let given = 0;

/** A port of 127.0.0.1 that nobody has now; the same again only after all others of this process. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < EACH; tries++) {
    const port = first + (given++ % EACH);
    if (await isFree(port)) return port;
  }
  throw new Error(`every port from ${first} to ${first + EACH - 1} is taken`);
}

/** Nobody listens there. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}
