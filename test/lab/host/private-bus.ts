/**
 * A D-Bus daemon of our own, for one test file: everyone may do everything on it, as the authorisation under
 * test is ours.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export interface PrivateBus {
  address: string;
  directory: string;
  /** Kills the bus, as when its daemon dies, and starts another at the same address. */
  restart: () => Promise<void>;
  /** Kills the bus and removes its files. */
  stop: () => Promise<void>;
}

const configuration = (socket: string, policy: string): string => `<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path=${socket}</listen>
  <auth>EXTERNAL</auth>
  ${policy}
</busconfig>
`;

const open = `<policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
  </policy>`;

/**
 * `policy`: the bus's configuration beyond its socket; by default all is allowed. undefined when the machine
 * has no dbus-daemon.
 */
export async function startPrivateBus(policy = open): Promise<PrivateBus | undefined> {
  const directory = await mkdtemp(join(tmpdir(), 'xnbd-bus-'));
  await chmod(directory, 0o755);
  const socket = join(directory, 'bus');
  const file = join(directory, 'bus.conf');
  await writeFile(file, configuration(socket, policy));
  let daemon = await startDaemon(file);
  if (daemon === undefined) {
    await rm(directory, { recursive: true });
    return undefined;
  }
  const stopDaemon = async (): Promise<void> => {
    if (daemon !== undefined) await end(daemon);
    await rm(socket, { force: true });
  };
  return {
    address: `unix:path=${socket}`,
    directory,
    restart: async () => {
      await stopDaemon();
      daemon = await startDaemon(file);
    },
    stop: async () => {
      await stopDaemon();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Resolves once it listens; undefined when the program is missing. */
async function startDaemon(file: string): Promise<ChildProcess | undefined> {
  const daemon = spawn(
    'dbus-daemon',
    [`--config-file=${file}`, '--nofork', '--nopidfile', '--print-address'],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  const failed = new Promise<boolean>((resolve) => daemon.once('error', () => resolve(false)));
  const listens = once(createInterface(daemon.stdout), 'line').then(() => true);
  return (await Promise.race([listens, failed])) ? daemon : undefined;
}

/** Kills a child of ours and waits until it is gone. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}
