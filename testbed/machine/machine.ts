/**
 * One machine: a QEMU without KVM that boots Debian, and the way into it by ssh.
 *
 * All that is known of it lies in its directory (process id, port, disk, console), so that a machine that was left
 * running is found again. It has two network cards: the way in, from this machine's loopback alone, and the link to the
 * other machine, which are datagrams between two sockets.
 */
import { existsSync } from 'node:fs';
import { link, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lastLines, run, signalTo, start } from '../../test/lab/processes.ts';
import { waitFor } from '../../test/lab/wait-for.ts';
import type { MachineImage } from './image.ts';

export type MachineName = 'a' | 'b';

const MEMORY_MIB = 1536;
const BOOT_LIMIT_MS = 480_000;
const SHUTDOWN_LIMIT_MS = 300_000;

const KERNEL_ARGUMENTS = [
  ...['root=/dev/vda', 'rw', 'console=ttyS0', 'net.ifnames=0', 'apparmor=1', 'security=apparmor'],
  // Faster, and fewer alarms of a kernel whose clock is a busy machine's.
  ...['mitigations=off', 'nokaslr', 'no_timer_check', 'nowatchdog', 'rcupdate.rcu_cpu_stall_suppress=1'],
];

const cards: Readonly<Record<MachineName, string>> = { a: '01', b: '02' };

/** libvirt says over and over that it has no Xen. */
const JOURNAL =
  "journalctl -n 120 --no-pager -o short-monotonic | grep -v -e 'driver available for xen' -e 'End of file' | tail -n 40";

export interface ShOptions {
  /** After so many milliseconds the call fails. Default 120000. */
  timeoutMs?: number;
  /** False: a failing exit code is no error. Default true. */
  check?: boolean;
}

export class Machine {
  readonly name: MachineName;
  readonly #dir: string;
  readonly #key: string;
  #port = 0;

  /** @param dir of both machines. @param key by which root is reached. Nothing is started. */
  constructor(name: MachineName, dir: string, key: string) {
    this.name = name;
    this.#dir = dir;
    this.#key = key;
  }

  /** By which the other machine knows it. */
  get host(): string {
    return `${this.name}.example`;
  }

  /** Finds it where it was left running. @returns whether it runs */
  async find(): Promise<boolean> {
    this.#port = Number(await readFile(this.#file('port'), 'utf8').catch(() => '0'));
    return (await this.#pid()) !== undefined;
  }

  /**
   * A disk as the image has it. The image's files are linked, not named: later ones of the same names would be another file system
   * under what this machine has written.
   */
  async renew({ disk, kernel, initrd }: MachineImage): Promise<void> {
    for (const suffix of ['disk', 'console', 'base', 'kernel', 'initrd'])
      await rm(this.#file(suffix), { force: true });
    await link(disk, this.#file('base'));
    await link(kernel, this.#file('kernel'));
    await link(initrd, this.#file('initrd'));
    await run([
      ...[
        'qemu-img',
        'create',
        '-q',
        '-f',
        'qcow2',
        '-F',
        'raw',
        '-b',
        this.#file('base'),
        this.#file('disk'),
      ],
    ]);
  }

  /** Boots it from its disk. @returns once root can be reached and systemd has started all that it is to start */
  async boot(): Promise<void> {
    this.#port = await freePort();
    await writeFile(this.#file('port'), String(this.#port));
    const qemu = await start(this.#command(), { log: this.#file('qemu'), detached: true });
    await writeFile(this.#file('pid'), String(qemu.pid));
    await waitFor(
      `machine ${this.name} to be reached`,
      async () => {
        if (!qemu.runs) throw new Error(`QEMU has ended: ${await lastLines(this.#file('qemu'), 3)}`);
        await sleep(1000);
        return this.#ssh(['true'], 60_000, true).then(
          () => true,
          () => false,
        );
      },
      BOOT_LIMIT_MS,
    );
    await this.sh('systemctl is-system-running --wait >/dev/null || true', { timeoutMs: BOOT_LIMIT_MS });
  }

  /** Runs a shell script there, as root. @returns what it wrote to stdout, without white space at the end */
  async sh(script: string, { timeoutMs = 120_000, check = true }: ShOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.#ssh([script], timeoutMs, false);
    if (check && code !== 0)
      throw new Error(`${this.name}: ${script}\nexit code ${code}: ${`${stdout}\n${stderr}`.trim()}`);
    return stdout.trimEnd();
  }

  /** The command line of a program that runs there while a client of ours wants it. */
  remote(command: string): string[] {
    return [...this.#sshCommand(), command];
  }

  /** Copies files of this machine into a directory there. */
  async put(directory: string, ...files: string[]): Promise<void> {
    await this.sh(`mkdir -p ${directory}`);
    await run([...this.#copyCommand(), ...files, `root@127.0.0.1:${directory}/`], { timeoutMs: 300_000 });
  }

  async get(file: string, local: string): Promise<void> {
    await run([...this.#copyCommand(), `root@127.0.0.1:${file}`, local], { timeoutMs: 300_000 });
  }

  /** Has systemd shut it down, and waits for its end. */
  async shutDown(): Promise<void> {
    await this.sh('systemctl poweroff --no-block');
    await waitFor(`machine ${this.name} to shut down`, async () => !(await this.find()), SHUTDOWN_LIMIT_MS);
  }

  /** Ends its QEMU, as a loss of power does. */
  async end(): Promise<void> {
    const pid = await this.#pid();
    if (pid === undefined) return;
    signalTo(pid, 'SIGTERM');
    await waitFor(
      `QEMU of machine ${this.name} to end`,
      async () => (await this.#pid()) === undefined,
      10_000,
    ).catch(() => signalTo(pid, 'SIGKILL'));
  }

  /** The last lines of its console, and of its journal if it can be reached. */
  async lastWords(): Promise<string> {
    const console = (await readFile(this.#file('console'), 'utf8').catch(() => ''))
      .trimEnd()
      .split('\n')
      .slice(-15);
    const { stdout } = await this.#ssh([JOURNAL], 30_000, false).catch(() => ({
      stdout: '(not reached)',
    }));
    return `--- console of ${this.name}\n${console.join('\n')}\n--- journal of ${this.name}\n${stdout.trimEnd()}`;
  }

  /** What its console has shown since its disk was new. */
  consoleText(): Promise<string> {
    return readFile(this.#file('console'), 'utf8');
  }

  #file(suffix: string): string {
    return join(this.#dir, `${this.name}.${suffix}`);
  }

  /** Of its QEMU, while that runs. */
  async #pid(): Promise<number | undefined> {
    const pid = Number(await readFile(this.#file('pid'), 'utf8').catch(() => '0'));
    if (pid === 0 || !existsSync(`/proc/${pid}`)) return undefined;
    const words = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return words.includes(this.#file('disk')) ? pid : undefined;
  }

  #command(): string[] {
    const { name } = this;
    const card = cards[name];
    const id = `5bed0000-0000-4000-8000-0000000000${card}`;
    const other = name === 'a' ? 'b' : 'a';
    const link = (of: MachineName, side: string) =>
      `${side}.type=unix,${side}.path=${join(this.#dir, `${of}.link`)}`;
    const identity = [`systemd.hostname=${name}`, `systemd.machine_id=${id.replaceAll('-', '')}`];
    return [
      ...['qemu-system-x86_64', '-name', `testbed-${name}`, '-uuid', id, '-machine', 'pc', '-nodefaults'],
      ...['-accel', 'tcg,thread=multi,tb-size=512', '-cpu', 'Nehalem,+aes,+pclmulqdq', '-smp', '1'],
      ...['-m', String(MEMORY_MIB), '-no-user-config', '-display', 'none', '-no-reboot'],
      ...[
        '-chardev',
        `file,id=console,path=${this.#file('console')},append=on`,
        '-serial',
        'chardev:console',
      ],
      ...['-drive', `file=${this.#file('disk')},if=none,id=disk,cache=unsafe,discard=unmap`],
      ...['-device', 'virtio-blk-pci,drive=disk', '-device', 'virtio-rng-pci'],
      ...['-netdev', `user,id=way-in,restrict=on,hostfwd=tcp:127.0.0.1:${this.#port}-:22`],
      ...['-device', `virtio-net-pci,netdev=way-in,mac=52:54:00:98:00:${card},romfile=`],
      ...['-netdev', `dgram,id=link,${link(name, 'local')},${link(other, 'remote')}`],
      ...['-device', `virtio-net-pci,netdev=link,mac=52:54:00:99:00:${card},romfile=`],
      ...['-kernel', this.#file('kernel'), '-initrd', this.#file('initrd')],
      ...['-append', [...KERNEL_ARGUMENTS, ...identity].join(' ')],
    ];
  }

  #ssh(words: readonly string[], timeoutMs: number, check: boolean): ReturnType<typeof run> {
    return run([...this.#sshCommand(), ...words], { timeoutMs, check, env: process.env });
  }

  /** One connection is used by all, because each costs a second under emulation. It ends by itself with the machine. */
  #sshOptions(): string[] {
    const options = [
      'StrictHostKeyChecking=no',
      'UserKnownHostsFile=/dev/null',
      'LogLevel=ERROR',
      'BatchMode=yes',
    ];
    const one = [
      'ControlMaster=auto',
      `ControlPath=${this.#file(`ssh-${this.#port}`)}`,
      'ControlPersist=120',
    ];
    const all = [...options, ...one, 'ConnectTimeout=10', 'ServerAliveInterval=30'];
    return ['-F', 'none', '-i', this.#key, ...all.flatMap((option) => ['-o', option])];
  }

  #sshCommand(): string[] {
    return ['ssh', '-p', String(this.#port), ...this.#sshOptions(), 'root@127.0.0.1'];
  }

  #copyCommand(): string[] {
    return ['scp', '-q', '-P', String(this.#port), ...this.#sshOptions()];
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
