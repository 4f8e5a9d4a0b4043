/** The servers that are compared: each serves one image on a unix socket, in its usual configuration. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportStatus } from '../src/control/client.ts';
import { freePort } from '../test/lab/net/free-port.ts';

/** As it is installed: the bundle that `npm run build` makes. */
export const bundle = join(import.meta.dirname, '../dist/bin/xnbd-export');

export interface RunningServer {
  name: string;
  /** The image that it serves. */
  image: string;
  /** An URI for libnbd. */
  uri: string;
  stop(): Promise<void>;
}

/** @param directory for its socket and state, its own. */
type Starter = (name: string, image: string, directory: string) => Promise<RunningServer>;

export const peers: Record<string, Starter> = {
  nbdkit: (name, image, directory) => {
    const socket = join(directory, 'nbd.sock');
    return foreground(name, image, socket, ['nbdkit', '-f', '-U', socket, 'file', image]);
  },
  'qemu-nbd': (name, image, directory) => {
    const socket = join(directory, 'nbd.sock');
    const args = ['qemu-nbd', '-f', 'raw', '-k', socket, '-t', '-e', '8', '--discard=unmap', image];
    return foreground(name, image, socket, args);
  },
  'nbd-server': startNbdServer,
};

/** @param program a build of xnbd-export. */
export function target(program: string): Starter {
  return (name, image, directory) => {
    const socket = join(directory, 'nbd.sock');
    return foreground(name, image, socket, targetCommand(program, image, directory));
  };
}

/** The way to nbd-server is TCP: this is what to compare that one with. */
export const targetOnTcp: Starter = async (name, image, directory) => {
  const port = await freePort();
  const command = [...targetCommand(bundle, image, directory), '--listen', `127.0.0.1:${port}`];
  const server = await foreground(name, image, join(directory, 'nbd.sock'), command);
  return { ...server, uri: `nbd://127.0.0.1:${port}/disk` };
};

function targetCommand(program: string, image: string, directory: string): string[] {
  const place = [
    '--image',
    image,
    '--socket',
    join(directory, 'nbd.sock'),
    '--state',
    join(directory, 'state'),
  ];
  return [program, 'target', 'disk', ...place];
}

/** A proxy that has fetched the whole of `image` into a file beside it, and serves that. */
export const completedProxy: Starter = async (name, image, directory) => {
  const originSocket = join(directory, 'origin.sock');
  // The image may be served already, and has one server.
  const first = `${image}.origin`;
  await copyFile(image, first);
  const originArgs = ['--image', first, '--socket', originSocket, '--state', join(directory, 'origin')];
  const origin = await foreground('origin', first, originSocket, [bundle, 'target', 'disk', ...originArgs]);
  const copy = `${image}.proxy`;
  const socket = join(directory, 'nbd.sock');
  const uri = `nbd+unix:///disk?socket=${originSocket}`;
  const place = ['--image', copy, '--socket', socket, '--state', join(directory, 'state')];
  const args = [bundle, 'proxy', 'disk', ...place, '--origin', uri, '--takeover', 'now'];
  const proxy = await foreground(name, copy, socket, args);
  for (;;) {
    const { state, origin: left } = await exportStatus(`${socket}.ctl`);
    if (state === 'serving' && left === null) break;
    await sleep(50);
  }
  await origin.stop();
  await rm(first);
  return proxy;
};

async function foreground(
  name: string,
  image: string,
  socket: string,
  [program, ...args]: string[],
): Promise<RunningServer> {
  const child = spawn(program!, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = once(child, 'exit');
  try {
    await listening(socket, child);
  } catch {
    throw new Error(`${name} does not start: ${said}`);
  }
  const stop = async () => {
    child.kill();
    await ended;
  };
  return { name, image, uri: `nbd+unix:///?socket=${socket}`, stop };
}

async function listening(socket: string, child: ChildProcess): Promise<void> {
  while (!existsSync(socket)) {
    if (child.exitCode !== null || child.pid === undefined) throw new Error('ended');
    await sleep(20);
  }
}

/**
 * On TCP, as 3.24 claims a size of 0 on a unix socket; and it serves several connections only as a daemon.
 */
async function startNbdServer(name: string, image: string, directory: string): Promise<RunningServer> {
  const port = await freePort();
  const config = join(directory, 'config');
  const pidFile = join(directory, 'pid');
  const disk = `[disk]\nexportname = ${image}\ntrim = true\nflush = true\nfua = true\n`;
  await writeFile(config, `[generic]\nlistenaddr = 127.0.0.1\nport = ${port}\n${disk}`);
  const child = spawn('nbd-server', ['-C', config, '-p', pidFile], { stdio: 'ignore' });
  const [code] = (await once(child, 'exit')) as [number];
  if (code !== 0) throw new Error(`nbd-server ended with ${code}`);
  while (!existsSync(pidFile)) await sleep(20);
  const pid = Number(await readFile(pidFile, 'utf8'));
  const stop = async () => {
    process.kill(pid);
    while (existsSync(`/proc/${pid}`)) await sleep(20);
  };
  return { name, image, uri: `nbd://127.0.0.1:${port}/disk`, stop };
}
