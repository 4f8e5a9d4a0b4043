/**
 * One xNBD host in a directory of its own: a real daemon, the real hook scripts, and libvirt's part played by
 * hand.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatAddress } from '../../../src/config/address.ts';
import { exportStatus } from '../../../src/control/client.ts';
import { exportRuns, killExport } from '../../../src/daemon/exports/export-process.ts';
import { type Gateway, startGateway } from '../../../src/gateway/gateway.ts';
import { listenPlain } from '../../../src/gateway/transport.ts';
import { type ExportRecord, newRecord, readRecord, writeRecord } from '../../../src/store/records/record.ts';

const top = join(import.meta.dirname, '../../..');
export const MIB = 1024 * 1024;

export interface HookResult {
  exit: number;
  stdout: string;
  stderr: string;
}

export interface TestDomain {
  name: string;
  uuid: string;
  disks: string[];
  /** How its disks may be shared with other domains; left out: not at all. */
  sharing?: 'readonly' | 'shareable';
  /** The element that the source's daemon wrote. */
  origin?: string;
}

/** A domain as libvirt shows it to a hook. Every disk is on `run`. */
export function domainXml(run: string, { name, uuid, disks, sharing, origin = '' }: TestDomain): string {
  const elements = disks.map(
    (disk, index) => `    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source protocol='nbd' name='${disk}'>
        <host transport='unix' socket='${run}/${disk}.sock'/>
      </source>
      <target dev='vd${'abcdefgh'[index]}' bus='virtio'/>${sharing === undefined ? '' : `<${sharing}/>`}
    </disk>
`,
  );
  return `<domain type='qemu' id='1'>
  <name>${name}</name>
  <uuid>${uuid}</uuid>
  <metadata>${origin}</metadata>
  <memory unit='KiB'>131072</memory>
  <devices>
${elements.join('')}  </devices>
</domain>
`;
}

export interface HookOptions {
  driver?: 'qemu' | 'libxl';
  xml?: string;
  /** The fourth argument. */
  extra?: string;
}

export interface TestHostOptions {
  /** Lines of xnbd.conf after [paths]. */
  config?: string;
  busAddress?: string;
  /** In place of this release's xnbd-export. */
  exportProgram?: string;
}

export class TestHost {
  readonly dir: string;
  readonly run: string;
  readonly #busAddress: string;
  readonly #exportProgram: string | undefined;
  /** In this process: hosts reach each other's exports through it, in the clear. */
  #gateway: Gateway | undefined;
  #daemon: ChildProcess | undefined;

  private constructor(dir: string, options: TestHostOptions) {
    this.dir = dir;
    this.run = join(dir, 'run');
    this.#busAddress = options.busAddress ?? `unix:path=${dir}/no-bus`;
    this.#exportProgram = options.exportProgram;
  }

  static async make(options: TestHostOptions = {}): Promise<TestHost> {
    const host = new TestHost(await mkdtemp(join(tmpdir(), 'xh-')), options);
    const { dir } = host;
    host.#gateway = await startGateway({
      run: host.run,
      records: join(dir, 'exports'),
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    for (const part of ['images', 'exports', 'run']) await mkdir(join(dir, part));
    await writeFile(
      join(dir, 'xnbd.conf'),
      `[paths]\nimages = ${dir}/images\nexports = ${dir}/exports\nrun = ${dir}/run\n` +
        `[libvirt]\ndbus = unix:path=${dir}/no-libvirt\n[log]\nlevel = debug\n` +
        `[gateway]\ntls = off\nadvertise = ${formatAddress(host.#gateway.address)}\n${options.config ?? ''}`,
    );
    const hook = join(dir, 'xnbd-hook');
    await writeFile(hook, `#!/bin/sh\nexec '${process.execPath}' '${top}/src/bin/xnbd-hook.ts' "$@"\n`);
    await chmod(hook, 0o755);
    return host;
  }

  get daemonPid(): number {
    return this.#daemon?.pid ?? 0;
  }

  /** Starts the daemon, and waits until it is ready. */
  async start(): Promise<void> {
    const daemon = this.spawnDaemon();
    this.#daemon = daemon;
    let said = '';
    const log = createWriteStream(join(this.dir, 'xnbdd.log'), { flags: 'a' });
    daemon.stderr!.pipe(log);
    await new Promise<void>((resolve, reject) => {
      daemon.stderr!.on('data', (chunk: Buffer) => {
        said += chunk.toString();
        if (said.includes('ready: hooks on')) resolve();
      });
      daemon.once('exit', () => reject(new Error(`xnbdd ended: ${said}`)));
    });
  }

  spawnDaemon(): ChildProcess {
    return spawn(process.execPath, [join(top, 'src/bin/xnbdd.ts'), '--config', join(this.dir, 'xnbd.conf')], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...process.env,
        DBUS_SYSTEM_BUS_ADDRESS: this.#busAddress,
        ...(this.#exportProgram !== undefined && { XNBD_EXPORT: this.#exportProgram }),
      },
    });
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
    daemon.kill(signal);
    await once(daemon, 'exit');
  }

  /** What the daemon has said so far. */
  async log(): Promise<string> {
    return readFile(join(this.dir, 'xnbdd.log'), 'utf8').catch(() => '');
  }

  /** Calls the hook script as libvirt does, and waits for the end of its output as libvirt does. */
  hook(op: string, domain: TestDomain, options: HookOptions = {}): Promise<HookResult> {
    const script = join(top, 'hooks', options.driver ?? 'qemu');
    const xml = options.xml ?? domainXml(this.run, domain);
    const subop = op === 'stopped' || op === 'release' ? 'end' : 'begin';
    return new Promise((resolve) => {
      const child = execFile(
        script,
        [domain.name, op, subop, options.extra ?? '-'],
        {
          env: { ...process.env, XNBD_RUN: this.run, XNBD_HOOK: join(this.dir, 'xnbd-hook') },
          timeout: 60_000,
        },
        (error, stdout, stderr) => {
          resolve({ exit: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
        },
      );
      child.stdin!.on('error', () => undefined);
      child.stdin!.end(xml);
    });
  }

  /** As `hook`, and it must succeed in silence. */
  async succeeds(op: string, domain: TestDomain, options: HookOptions = {}): Promise<void> {
    const result = await this.hook(op, domain, options);
    assert.deepEqual(
      result,
      { exit: 0, stdout: '', stderr: '' },
      `${op} of ${domain.name}\n${await this.log()}`,
    );
  }

  /** A disk that this host knows: a sparse image and a record. */
  async addDisk(name: string, changes: Partial<ExportRecord> = {}, sizeBytes = 8 * MIB): Promise<void> {
    const image = join(this.dir, 'images', `${name}.img`);
    await writeFile(image, '');
    await truncate(image, sizeBytes);
    await writeRecord(this.stateDir(name), { ...newRecord(name, image, sizeBytes), ...changes });
  }

  stateDir(name: string): string {
    return join(this.dir, 'exports', name);
  }

  record(name: string): Promise<ExportRecord | undefined> {
    return readRecord(this.stateDir(name));
  }

  status(name: string) {
    return exportStatus(join(this.run, `${name}.ctl`));
  }

  /** State of a running export; undefined when it does not run. */
  state(name: string): Promise<string | undefined> {
    return this.status(name).then(
      (status) => status.state,
      () => undefined,
    );
  }

  /** For a client of this host, as its guest is. */
  localUri(name: string): string {
    return `nbd+unix:///${name}?socket=${this.run}/${name}.sock`;
  }

  /** For another host: at the gateway. */
  uri(name: string): string {
    return `nbd://${formatAddress(this.#gateway!.address)}/${name}`;
  }

  /** Paths below images/ and exports/: what is left on this host. */
  async left(): Promise<string[]> {
    const images = await readdir(join(this.dir, 'images'));
    const exports = await readdir(join(this.dir, 'exports'));
    return [...images, ...exports].sort();
  }

  /** Ends everything that this host started, and deletes its directory. */
  async remove(): Promise<void> {
    await this.stop('SIGKILL');
    for (const file of await readdir(this.run)) {
      if (!file.endsWith('.ctl')) continue;
      const name = file.slice(0, -'.ctl'.length);
      const status = await this.status(name).catch(() => undefined);
      if (status !== undefined && (await exportRuns(status.pid, name))) await killExport(status.pid, name);
    }
    await this.#gateway?.close(0);
    await rm(this.dir, { recursive: true, force: true });
  }
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
