/**
 * A host of xNBD in a directory of its own: configuration, daemon, gateway, and the hook scripts, called by
 * hand as libvirt calls them. No libvirt and no bus is there unless a test brings one.
 */
import { execFile } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { builtProgram, type Running, startProgram } from '../processes.ts';
import { domainXml, type TestDomain } from './test-domain.ts';

const TOP = join(import.meta.dirname, '../../..');
const HOOK_LIMIT_MS = 60_000;

export interface HookResult {
  exit: number;
  stdout: string;
  stderr: string;
}

export interface HookOptions {
  driver?: 'qemu' | 'libxl';
  xml?: string;
  /** The fourth argument. */
  extra?: string;
}

export class XnbdHost {
  readonly dir: string;
  readonly run: string;
  readonly images: string;
  readonly exports: string;
  daemon: Running | null = null;
  gateway: Running | null = null;
  readonly #built: boolean;
  readonly #environment: NodeJS.ProcessEnv;

  /**
   * @param built the programs of dist/, not those of src/
   * @param environment of the daemon
   */
  constructor(dir: string, built = false, environment: NodeJS.ProcessEnv = {}) {
    this.dir = dir;
    this.run = join(dir, 'run');
    this.images = join(dir, 'images');
    this.exports = join(dir, 'exports');
    this.#built = built;
    this.#environment = { DBUS_SYSTEM_BUS_ADDRESS: `unix:path=${dir}/no-bus`, ...environment };
  }

  /**
   * Makes its directories and its configuration. @param config sections of xnbd.conf beside [paths],
   * [libvirt], [log]
   */
  async furnish(config: string): Promise<void> {
    for (const path of [this.run, this.images, this.exports, join(this.dir, 'log')])
      await mkdir(path, { recursive: true });
    await writeFile(
      this.config,
      `[paths]\nimages = ${this.images}\nexports = ${this.exports}\nrun = ${this.run}\n` +
        `[libvirt]\ndbus = unix:path=${this.dir}/no-libvirt\n[log]\nlevel = debug\n${config}`,
    );
    const hook = this.#hookProgram;
    if (this.#built) return;
    await writeFile(hook, `#!/bin/sh\nexec '${process.execPath}' '${TOP}/src/bin/xnbd-hook.ts' "$@"\n`);
    await chmod(hook, 0o755);
  }

  get config(): string {
    return join(this.dir, 'xnbd.conf');
  }

  get #hookProgram(): string {
    return this.#built ? builtProgram('xnbd-hook') : join(this.dir, 'xnbd-hook');
  }

  /** Starts the daemon, and waits until it is ready. */
  async startDaemon(): Promise<void> {
    this.daemon = await this.#start('xnbdd', 'ready: hooks on', this.#environment);
  }

  /** Starts the gateway that the configuration describes, and waits until it listens. */
  async startGateway(): Promise<void> {
    this.gateway = await this.#start('xnbd-gateway', 'listening on');
  }

  #start(name: string, ready: string, env: NodeJS.ProcessEnv = {}): Promise<Running> {
    const log = join(this.dir, `${name}.log`);
    return startProgram(name, ['--config', this.config], { log, ready, env, built: this.#built });
  }

  /** Calls the hook script as libvirt does, and waits for the end of its output as libvirt does. */
  hook(op: string, domain: TestDomain, options: HookOptions = {}): Promise<HookResult> {
    const script = join(TOP, 'hooks', options.driver ?? 'qemu');
    const xml = options.xml ?? domainXml(this.run, domain);
    const subop = op === 'stopped' || op === 'release' ? 'end' : 'begin';
    const env = { ...process.env, XNBD_RUN: this.run, XNBD_HOOK: this.#hookProgram };
    return new Promise((resolve) => {
      const child = execFile(
        script,
        [domain.name, op, subop, options.extra ?? '-'],
        { env, timeout: HOOK_LIMIT_MS },
        (error, stdout, stderr) =>
          resolve({ exit: error === null ? 0 : Number(error.code ?? -1), stdout, stderr }),
      );
      child.stdin!.on('error', () => undefined);
      child.stdin!.end(xml);
    });
  }
}
