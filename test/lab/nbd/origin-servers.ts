/** Other people's NBD servers as origins, each on a unix socket of its own, ended by pid. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { connect, type NetConnectOpts } from 'node:net';
import { join } from 'node:path';
import { freePort } from '../net/free-port.ts';

export interface OriginServer {
  uri: string;
  /** Whether clients are connected to it now. */
  hasClients(): boolean;
  stop(): Promise<void>;
}

/** nbdkit in the foreground. @param args plugin, its parameters, filters */
export async function startNbdkit(directory: string, args: string[]): Promise<OriginServer> {
  const socket = join(directory, 'nbdkit.sock');
  const child = spawn('nbdkit', ['--foreground', '--unix', socket, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return await serverOn(child, socket, `nbd+unix:///?socket=${socket}`);
}

/** qemu-nbd as it is by default: one client at a time. @param bad bytes whose sectors cannot be read */
export async function startQemuNbd(
  directory: string,
  image: string,
  bad: readonly number[] = [],
): Promise<OriginServer> {
  const socket = join(directory, 'qemu.sock');
  const broken = bad.map((byte, at) =>
    Object.entries({ event: 'none', iotype: 'read', errno: 5, once: 'off', sector: Math.floor(byte / 512) })
      .map(([key, value]) => `inject-error.${at}.${key}=${value}`)
      .join(','),
  );
  const options = ['driver=blkdebug', 'image.driver=file', `image.filename=${image}`, ...broken].join(',');
  const args = ['--persistent', '--export-name=disk', `--socket=${socket}`];
  args.push(...(bad.length === 0 ? ['--format=raw', image] : ['--image-opts', options]));
  const child = spawn('qemu-nbd', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  return await serverOn(child, socket, `nbd+unix:///disk?socket=${socket}`);
}

/**
 * nbd-server: newstyle, no structured replies, no block status; on TCP (on a unix socket 3.24 claims a size
 * of 0).
 */
export async function startNbdServer(directory: string, image: string): Promise<OriginServer> {
  const port = await freePort();
  const config = join(directory, 'nbd-server.conf');
  await writeFile(
    config,
    `[generic]\nlistenaddr = 127.0.0.1\nport = ${port}\n[disk]\nexportname = ${image}\nreadonly = true\n`,
  );
  // It leaves its starter, whatever it is told, unless it is to serve one client alone.
  const pidFile = join(directory, 'nbd-server.pid');
  execFileSync('nbd-server', ['-C', config, '-p', pidFile], { stdio: 'pipe' });
  await untilItAnswers({ port, host: '127.0.0.1' }, () => null);
  const pid = Number(await readFile(pidFile, 'utf8'));
  return {
    uri: `nbd://127.0.0.1:${port}/disk`,
    hasClients: () => established(['-tH', 'state', 'established', 'src', `127.0.0.1:${port}`]),
    stop: () => {
      process.kill(pid);
      return Promise.resolve();
    },
  };
}

async function serverOn(child: ChildProcess, socket: string, uri: string): Promise<OriginServer> {
  let stderr = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const exited = once(child, 'exit');
  try {
    await untilItAnswers({ path: socket }, () => child.exitCode);
  } catch (error) {
    child.kill('SIGKILL');
    throw new Error(`${child.spawnfile} does not start: ${(error as Error).message}: ${stderr.trim()}`);
  }
  return {
    uri,
    hasClients: () => hasClients(socket),
    stop: async () => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill();
        await exited;
      }
    },
  };
}

/** @throws Error when it has ended or does not answer in time */
async function untilItAnswers(address: NetConnectOpts, exitCode: () => number | null): Promise<void> {
  for (const deadline = performance.now() + 10_000; !(await answers(address)); ) {
    if (exitCode() !== null) throw new Error(`it has ended with code ${exitCode()}`);
    if (performance.now() > deadline) throw new Error('nobody answers');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Whether a connection to the socket is open. */
export function hasClients(socket: string): boolean {
  return established(['-xH', 'state', 'established', 'src', socket]);
}

function established(filter: string[]): boolean {
  return execFileSync('ss', filter, { encoding: 'utf8' }).trim() !== '';
}

function answers(address: NetConnectOpts): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(address);
    probe.once('error', () => resolve(false));
    // A server of one client at a time greets the next one only when this one is gone.
    probe.once('data', () => {
      probe.once('close', () => resolve(true));
      probe.destroy();
    });
  });
}
