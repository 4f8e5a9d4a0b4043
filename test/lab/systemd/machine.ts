/**
 * A host with a real systemd as its process 1, and xNBD installed on it as scripts/install.sh does: this machine's
 * own Debian, booted once more in namespaces (boot.sh), in about a second. It can be shut down and booted again.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type ExportRecord, newRecord, readRecord, writeRecord } from '../../../src/store/records/record.ts';
import { domainXml, type TestDomain } from '../host/test-domain.ts';
import { isInstalled } from '../installed.ts';
import { type RunOptions, type RunResult, run } from '../processes.ts';
import { waitFor } from '../wait-for.ts';

const TOP = join(import.meta.dirname, '../../..');
const BOOT = join(import.meta.dirname, 'boot.sh');
const BOOT_LIMIT_MS = 60_000;
const SHUTDOWN_LIMIT_MS = 120_000;
/** What outlasts a shutdown; the first is where the programs are. */
const KEPT = ['/usr/lib/xnbd', '/var/lib/xnbd', '/var/log/journal'];
const UNITS = '/etc/systemd/system';
/** What starts at boot. */
const SERVICES = ['xnbdd.service', 'xnbd-gateway.service'];

/** Why no such host can be booted here; undefined when it can. */
export async function whyNoMachine(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'it takes root, for namespaces';
  if (!['/usr/lib/systemd/systemd', '/lib/systemd/systemd'].some(isInstalled)) return 'there is no systemd';
  if (!isInstalled('unshare') || !isInstalled('nsenter')) return 'there is no unshare (util-linux)';
  const namespaces = ['--mount', '--pid', '--fork', '--uts', '--ipc', '--net', '--cgroup'];
  const mounts = 'mount -t tmpfs tmpfs /mnt && mount -t cgroup2 cgroup2 /mnt';
  const { code, stderr } = await run(['unshare', ...namespaces, '--', 'sh', '-c', mounts], { check: false });
  return code === 0 ? undefined : `no namespace with control groups can be made: ${stderr.trim()}`;
}

/** A line of the journal: fields by their names. */
export type JournalEntry = Readonly<Record<string, string>>;

export interface MachineOptions {
  name?: string;
  /** Sections of xnbd.conf but [log]. */
  config?: string;
  /** Units of the test's own, by their names, started at boot. */
  units?: Readonly<Record<string, string>>;
  /** Units of the machine's packages that are started at boot. */
  packaged?: readonly string[];
  /** Texts by their paths. */
  files?: Readonly<Record<string, string>>;
}

export class Machine {
  readonly dir: string;
  readonly name: string;
  #boot: ChildProcess | undefined;
  #pid = 0;

  private constructor(dir: string, name: string) {
    this.dir = dir;
    this.name = name;
  }

  /** Installs it; `boot` starts it. */
  static async make(options: MachineOptions = {}): Promise<Machine> {
    const {
      name = 'lab',
      config = '[gateway]\ntls = off\n',
      units = {},
      packaged = [],
      files = {},
    } = options;
    const machine = new Machine(await mkdtemp(join(tmpdir(), 'xm-')), name);
    const root = join(machine.dir, 'root');
    await run(['sh', join(TOP, 'scripts/install.sh')], { env: { ...process.env, DESTDIR: root } });
    await mkdir(join(machine.dir, 'bound/usr/lib'), { recursive: true });
    await rename(join(root, 'usr/lib/xnbd'), join(machine.dir, 'bound/usr/lib/xnbd'));
    await rm(join(root, 'var/lib/xnbd'), { recursive: true, force: true });
    await writeFile(join(root, 'etc/machine-id'), `${randomUUID().replaceAll('-', '')}\n`);
    await writeFile(join(root, 'etc/xnbd/xnbd.conf'), `[log]\nlevel = debug\n${config}`);
    await mkdir(join(root, UNITS), { recursive: true });
    await symlink('/lib/systemd/system/multi-user.target', join(root, UNITS, 'default.target'));
    const wanted = join(root, UNITS, 'multi-user.target.wants');
    await mkdir(wanted);
    for (const unit of [...SERVICES, ...packaged])
      await symlink(join('/usr/lib/systemd/system', unit), join(wanted, unit));
    for (const [unit, text] of Object.entries(units)) {
      await writeFile(join(root, UNITS, unit), text);
      await symlink(join(UNITS, unit), join(wanted, unit));
    }
    for (const [path, text] of Object.entries(files)) {
      await mkdir(join(root, path, '..'), { recursive: true });
      await writeFile(join(root, path), text);
    }
    return machine;
  }

  /** Boots it and waits until all that is enabled has been started. */
  async boot(): Promise<void> {
    const argv = ['--mount', '--propagation', 'private', '--', 'sh', BOOT, this.dir, this.name, ...KEPT];
    const boot = spawn('unshare', argv, { stdio: ['pipe', 'pipe', 'pipe'] });
    let said = '';
    boot.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
    boot.stdin.on('error', () => undefined);
    this.#boot = boot;
    const ended = once(boot, 'exit').then(() => {
      throw new Error(`it does not boot: ${said}`);
    });
    const [line] = (await Promise.race([once(createInterface(boot.stdout), 'line'), ended])) as [string];
    ended.catch(() => undefined);
    this.#pid = Number(line);
    await waitFor(
      `${this.name} to be up`,
      async () => {
        const { stdout } = await this.exec(['systemctl', 'is-system-running'], { check: false });
        return ['running', 'degraded'].includes(stdout.trim());
      },
      BOOT_LIMIT_MS,
    ).catch(async (error: unknown) => {
      const jobs = await this.exec(['systemctl', 'list-jobs', '--no-pager'], { check: false });
      throw new Error(`${(error as Error).message}: ${jobs.stdout}${jobs.stderr}`);
    });
  }

  /** Runs a program on it to its end. */
  exec(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const spaces = ['--mount', '--pid', '--uts', '--ipc', '--net', '--cgroup'];
    const env = {
      HOME: '/root',
      LC_ALL: 'C',
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    };
    return run(['nsenter', '--target', String(this.#pid), ...spaces, '--', ...argv], {
      ...options,
      cwd: '/',
      env: { ...env, ...options.env },
    });
  }

  async systemctl(...args: string[]): Promise<string> {
    return (await this.exec(['systemctl', '--no-pager', ...args], { timeoutMs: 120_000 })).stdout.trim();
  }

  /** A property of a unit, as systemctl shows it. */
  property(unit: string, name: string): Promise<string> {
    return this.systemctl('show', '--value', '--property', name, unit);
  }

  /** What the journal has by these words of journalctl, the oldest first. */
  async journal(...words: string[]): Promise<JournalEntry[]> {
    await this.exec(['journalctl', '--sync'], { check: false });
    const { stdout } = await this.exec(['journalctl', '--output=json', '--no-pager', ...words], {
      check: false,
    });
    return stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as JournalEntry);
  }

  /** What it has at a path, seen from outside; unix sockets can be connected to there. */
  outside(path: string): string {
    return join(`/proc/${this.#pid}/root`, path);
  }

  /** A path in a directory that outlasts a shutdown, also while it is down. */
  kept(path: string): string {
    return join(this.dir, 'bound', path);
  }

  /** A disk at rest: a sparse image and its record. */
  async addDisk(
    name: string,
    sizeBytes = 8 * 1024 * 1024,
    image = `/var/lib/xnbd/images/${name}.img`,
  ): Promise<void> {
    await this.addImage(image, sizeBytes);
    await writeRecord(this.kept(`/var/lib/xnbd/exports/${name}`), newRecord(name, image, sizeBytes));
  }

  /** Of a disk at rest, before it boots. */
  async changeRecord(name: string, changes: Partial<ExportRecord>): Promise<void> {
    const directory = this.kept(`/var/lib/xnbd/exports/${name}`);
    await writeRecord(directory, { ...(await readRecord(directory))!, ...changes });
  }

  /** A sparse file, before it boots. */
  async addImage(image: string, sizeBytes: number): Promise<void> {
    const isKept = KEPT.some((path) => image.startsWith(`${path}/`));
    const file = isKept ? this.kept(image) : join(this.dir, 'root', image);
    await mkdir(join(file, '..'), { recursive: true });
    await writeFile(file, '');
    await truncate(file, sizeBytes);
  }

  /** libvirt's hook, as libvirt calls it. @throws Error with what it said when it fails */
  async hook(op: string, domain: TestDomain): Promise<void> {
    const subop = op === 'stopped' || op === 'release' ? 'end' : 'begin';
    await this.exec(['/etc/libvirt/hooks/qemu.d/xnbd', domain.name, op, subop, '-'], {
      input: domainXml('/run/xnbd', domain),
    });
  }

  /** Shuts it down in an orderly way, as an administrator does. */
  async shutDown(): Promise<void> {
    const boot = this.#boot!;
    const ended = once(boot, 'exit');
    await this.exec(
      ['systemctl', 'start', '--no-block', 'poweroff.target', '--job-mode=replace-irreversibly'],
      {
        check: false,
      },
    );
    const limit = AbortSignal.timeout(SHUTDOWN_LIMIT_MS);
    await Promise.race([
      ended,
      once(limit, 'abort').then(async () => {
        const jobs = await this.exec(['systemctl', 'list-jobs', '--no-pager'], { check: false });
        throw new Error(`it does not shut down: ${jobs.stdout}`);
      }),
    ]);
    this.#boot = undefined;
  }

  /** Ends it, as when its power is cut, and removes its files. */
  async destroy(): Promise<void> {
    const boot = this.#boot;
    if (boot !== undefined && boot.exitCode === null) {
      const ended = once(boot, 'exit');
      boot.stdin!.end();
      await ended;
    }
    await rm(this.dir, { recursive: true, force: true });
  }
}
