/*
 * One of the lab's two hosts: namespaces for mounts, host name and network, and in them a D-Bus daemon, libvirtd and libvirt-dbus.
 *
 * What the host sees at /run, /etc/libvirt, /etc/xnbd, /var/lib/libvirt, /var/lib/xnbd, /var/log/libvirt and /var/cache/libvirt are
 * directories of its own below `dir`, so a test reads, writes and connects there from outside (`outside()`), unix sockets included.
 * Everything else (/usr, /tmp, the repository) is the machine's. There is no namespace of processes: a pid is a pid everywhere.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { basename, join } from 'node:path';
import { type Running, type RunOptions, type RunResult, run, start } from '../processes.ts';
import { waitFor } from '../wait-for.ts';
import { busConf, hostsFile, libvirtdConf, qemuConf } from './settings.ts';

const ANCHOR = join(import.meta.dirname, 'anchor.sh');
const HOOK = '/etc/libvirt/hooks/qemu';
const OWN_DIRECTORIES = [
  '/run/dbus/policy.d',
  '/run/lab',
  '/run/lock',
  '/run/xnbd',
  '/etc/libvirt/hooks',
  '/etc/xnbd',
  '/var/lib/libvirt',
  '/var/lib/xnbd/images',
  '/var/lib/xnbd/exports',
  '/var/log/libvirt/qemu',
  '/var/cache/libvirt',
];

export type HostOptions = {
  /** Its directory on the machine, short: the paths of unix sockets hold 107 bytes. Must not exist. */
  dir: string;
  name: string;
  /** IPv4 address of every host of the lab, by name. */
  addresses: Readonly<Record<string, string>>;
  /** Directories before the usual ones in the PATH of everything that runs here, hooks included. */
  path?: readonly string[];
  /** A script, copied to /etc/libvirt/hooks/qemu before libvirtd starts. */
  hook?: string;
};

export class Host {
  readonly name: string;
  readonly dir: string;
  /** IPv4 address on the link between the hosts. */
  readonly address: string;
  /** This host's system bus for a client outside, e.g. `dbus-next`'s `sessionBus({ busAddress })`. */
  readonly busAddress: string;
  readonly #anchor: ChildProcess;
  readonly #environment: NodeJS.ProcessEnv;
  #libvirtd: Running | undefined;
  #spawned = 0;

  constructor(options: HostOptions, anchor: ChildProcess) {
    this.name = options.name;
    this.dir = options.dir;
    this.address = options.addresses[options.name]!;
    this.busAddress = `unix:path=${this.outside('/run/dbus/system_bus_socket')}`;
    this.#anchor = anchor;
    const path = [
      ...(options.path ?? []),
      '/usr/local/sbin',
      '/usr/local/bin',
      '/usr/sbin',
      '/usr/bin',
      '/sbin',
      '/bin',
    ];
    this.#environment = { HOME: '/root', LC_ALL: 'C', PATH: path.join(':') };
  }

  /** Pid of the process that holds the namespaces; `/proc/PID/root/` shows the host's whole file system. */
  get anchorPid(): number {
    return this.#anchor.pid!;
  }

  /** Pid of libvirtd. */
  get libvirtdPid(): number {
    return this.#libvirtd!.pid;
  }

  /** The path, outside, of something that this host has in one of its own directories. */
  outside(path: string): string {
    return join(this.dir, path);
  }

  /** Runs a program here to its end. The environment is HOME, LC_ALL=C and PATH, and `options.env` on top. */
  exec(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return run(this.#inside(argv, options.cwd), {
      ...options,
      cwd: '/',
      env: { ...this.#environment, ...options.env },
    });
  }

  /** Starts a program here that goes on until `end()` or the end of the lab. Its pid is the program's own. */
  spawn(
    argv: readonly string[],
    options: { env?: NodeJS.ProcessEnv; cwd?: string; log?: string } = {},
  ): Promise<Running> {
    return start(this.#inside(argv, options.cwd), {
      log: options.log ?? join(this.dir, `${basename(argv[0]!)}-${++this.#spawned}.log`),
      env: { ...this.#environment, ...options.env },
      cwd: '/',
      detached: true,
    });
  }

  /**
   * `virsh ARGS` against this host's libvirtd; its trimmed output.
   * @throws with what virsh printed, or after three minutes
   */
  async virsh(...args: string[]): Promise<string> {
    const argv = ['virsh', '--quiet', '--connect', 'qemu:///system', ...args];
    const { stdout } = await this.exec(argv, { timeoutMs: 180_000 });
    return stdout.trim();
  }

  /** Pid of the QEMU that runs a guest here. */
  async qemuPid(guest: string): Promise<number> {
    return Number(await readFile(this.outside(`/run/libvirt/qemu/${guest}.pid`), 'utf8'));
  }

  /** Puts a script in place as the qemu hook, also of a libvirtd that is running. */
  async installHook(script: string): Promise<void> {
    await copyFile(script, this.outside(HOOK));
    await chmod(this.outside(HOOK), 0o755);
    if (this.#libvirtd) process.kill(this.#libvirtd.pid, 'SIGHUP');
  }

  /** Starts libvirtd and waits until it listens. */
  async startLibvirtd(): Promise<void> {
    this.#libvirtd = await this.spawn(['libvirtd', '--listen'], { log: join(this.dir, 'libvirtd.log') });
    await this.#listening('/run/libvirt/libvirt-sock', this.#libvirtd);
  }

  /** Ends libvirtd (its guests run on). `SIGKILL`: as a crash would. */
  async stopLibvirtd(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.#libvirtd?.end(signal, 20_000);
    this.#libvirtd = undefined;
  }

  /** Starts the bus, libvirtd and libvirt-dbus. */
  async startDaemons(): Promise<void> {
    const bus = await this.spawn(
      ['dbus-daemon', '--config-file=/run/dbus/bus.conf', '--nofork', '--nopidfile'],
      {
        log: join(this.dir, 'dbus.log'),
      },
    );
    await Promise.all([this.#listening('/run/dbus/system_bus_socket', bus), this.startLibvirtd()]);
    await this.spawn(['libvirt-dbus', '--system'], { log: join(this.dir, 'libvirt-dbus.log') });
    await waitFor(`org.libvirt on the bus of host ${this.name}`, () => this.hasBusName('org.libvirt'));
  }

  /** Whether somebody owns the name on this host's system bus. */
  async hasBusName(name: string): Promise<boolean> {
    const ask = [
      'dbus-send',
      '--system',
      '--print-reply',
      '--dest=org.freedesktop.DBus',
      '/',
      'org.freedesktop.DBus.NameHasOwner',
    ];
    const { stdout } = await this.exec([...ask, `string:${name}`]);
    return stdout.includes('boolean true');
  }

  /** Kills every process of this host and removes its directory. */
  async destroy(): Promise<void> {
    if (this.#anchor.exitCode !== null || this.#anchor.signalCode !== null) return;
    const gone = once(this.#anchor, 'exit');
    this.#anchor.ref();
    this.#anchor.stdin!.end();
    await gone;
  }

  #inside(argv: readonly string[], cwd = '/'): string[] {
    const enter = ['nsenter', `--target=${this.anchorPid}`, '--mount', '--uts', '--net', '--'];
    return cwd === '/' ? [...enter, ...argv] : [...enter, 'env', '-C', cwd, ...argv];
  }

  #listening(socket: string, server: Running): Promise<true> {
    return waitFor(`${socket} of host ${this.name} (log: ${server.log})`, () => {
      if (server.process.exitCode !== null)
        throw new Error(`host ${this.name}: the server of ${socket} has ended: ${server.log}`);
      return accepts(this.outside(socket));
    });
  }
}

/** Whether somebody listens on a unix socket. */
export async function accepts(socket: string): Promise<boolean> {
  const connection = connect(socket);
  try {
    await once(connection, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    connection.destroy();
  }
}

/** A host with its files and namespaces, but no daemon yet and no network except loopback. */
export async function createHost(options: HostOptions): Promise<Host> {
  const { dir, name, addresses, hook } = options;
  const own = (path: string, content: string): Promise<void> => writeFile(join(dir, path), content);
  await Promise.all(OWN_DIRECTORIES.map((path) => mkdir(join(dir, path), { recursive: true })));
  await own('/etc/hosts', hostsFile(addresses));
  await own('/etc/machine-id', `${randomUUID().replaceAll('-', '')}\n`);
  await own('/etc/libvirt/libvirtd.conf', libvirtdConf());
  await own('/etc/libvirt/qemu.conf', qemuConf());
  await own('/run/dbus/bus.conf', busConf());
  const host = new Host(options, await anchor(dir, name));
  if (hook !== undefined) await host.installHook(hook);
  return host;
}

/** Starts the process that holds the namespaces; it lives as long as this process holds its standard input. */
async function anchor(dir: string, name: string): Promise<ChildProcess> {
  const child = spawn('unshare', ['--mount', '--uts', '--net', '--', 'sh', ANCHOR, dir, name], {
    stdio: 'pipe',
    detached: true,
    cwd: '/',
  });
  let output = '';
  const ready = new Promise<void>((resolve, reject) => {
    const listen = (text: string): void => {
      output += text;
      if (output.includes('ready\n')) resolve();
    };
    child.stdout.setEncoding('utf8').on('data', listen);
    child.stderr.setEncoding('utf8').on('data', listen);
    child.once('error', reject);
    child.once('exit', () => reject(new Error(`host ${name} has no namespaces: ${output.trim()}`)));
  });
  await ready;
  // A test that forgets destroy() must be able to end: then this process ends, and with it the lab.
  child.unref();
  for (const stream of [child.stdin, child.stdout, child.stderr])
    (stream as unknown as { unref(): void }).unref();
  return child;
}
