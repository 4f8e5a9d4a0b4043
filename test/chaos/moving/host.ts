/**
 * One host of a story: a directory, a gateway behind an emulated line, and, where it drives the moves, a
 * daemon.
 */
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { domainXml, type TestDomain } from '../../lab/host/test-host.ts';
import { freePort } from '../../lab/net/free-port.ts';
import { startWan, type Wan } from '../../lab/net/wan.ts';
import { builtProgram, type Running, startProgram } from '../../lab/processes.ts';
import type { HostName, Plan } from '../plan.ts';

const HOOK = join(import.meta.dirname, '../../../hooks/qemu');
const HOOK_LIMIT_MS = 60_000;
/** Seconds: what a migrate hook has set up and nobody came for is cleared away after them. */
const PREPARE_TIMEOUT = 15;
/** In the certificates of every host (test/lab/host/certificates.ts). */
export const TLS_NAME = 'chaos.example';

export interface HookResult {
  exit: number;
  stderr: string;
}

export class ChaosHost {
  readonly name: HostName;
  readonly dir: string;
  readonly run: string;
  readonly images: string;
  readonly exports: string;
  /** Where the others reach its gateway. */
  wan!: Wan;
  gateway!: Running;
  daemon: Running | null = null;
  readonly #port: number;
  readonly #scheme: 'nbd' | 'nbds';

  private constructor(name: HostName, dir: string, port: number, tls: boolean) {
    this.name = name;
    this.dir = dir;
    this.run = join(dir, 'run');
    this.images = join(dir, 'images');
    this.exports = join(dir, 'exports');
    this.#port = port;
    this.#scheme = tls ? 'nbds' : 'nbd';
  }

  /** @param pki directory with certificates */
  static async start(name: HostName, dir: string, pki: string, plan: Plan): Promise<ChaosHost> {
    const host = new ChaosHost(name, dir, await freePort(), plan.tls);
    for (const path of [dir, host.run, host.images, host.exports]) await mkdir(path, { recursive: true });
    host.wan = await startWan({ to: `127.0.0.1:${host.#port}`, rttMs: plan.rttMs, rateMbit: plan.rateMbit });
    const tls = plan.tls
      ? `tls = required\n[tls]\nca = ${pki}/ca-cert.pem\ncert = ${pki}/server-cert.pem\nkey = ${pki}/server-key.pem\nallow = ${TLS_NAME}\n`
      : 'tls = off\n';
    await writeFile(
      join(dir, 'xnbd.conf'),
      `[paths]\nimages = ${host.images}\nexports = ${host.exports}\nrun = ${host.run}\n` +
        `[gateway]\nlisten = 127.0.0.1:${host.#port}\nadvertise = ${host.wan.address}\n${tls}` +
        `[relocation]\nretired = ${plan.retired}\nprepare-timeout = ${PREPARE_TIMEOUT}\n[libvirt]\ndbus = unix:path=${dir}/no-libvirt\n[log]\nlevel = debug\n`,
    );
    await host.startGateway();
    if (plan.driver === 'daemon') await host.startDaemon();
    return host;
  }

  async startGateway(): Promise<void> {
    this.gateway = await startProgram('xnbd-gateway', ['--config', join(this.dir, 'xnbd.conf')], {
      log: join(this.dir, 'gateway.log'),
      built: true,
      ready: () => accepts({ host: '127.0.0.1', port: this.#port }),
    });
  }

  async startDaemon(): Promise<void> {
    this.daemon = await startProgram('xnbdd', ['--config', join(this.dir, 'xnbd.conf')], {
      log: join(this.dir, 'xnbdd.log'),
      built: true,
      ready: () => accepts({ path: join(this.run, 'hook.sock') }),
      env: { DBUS_SYSTEM_BUS_ADDRESS: `unix:path=${this.dir}/no-bus` },
    });
  }

  get daemonRuns(): boolean {
    return this.daemon?.runs ?? false;
  }

  /** Of an export of this host, for the others. */
  uri(name: string): string {
    return `${this.#scheme}://${this.wan.address}/${name}`;
  }

  /** Calls the hook script as libvirt does. */
  hook(op: string, domain: TestDomain): Promise<HookResult> {
    const subop = op === 'stopped' || op === 'release' ? 'end' : 'begin';
    return new Promise((resolve) => {
      const child = execFile(
        HOOK,
        [domain.name, op, subop, '-'],
        {
          env: { ...process.env, XNBD_RUN: this.run, XNBD_HOOK: builtProgram('xnbd-hook') },
          timeout: HOOK_LIMIT_MS,
        },
        (error, _stdout, stderr) =>
          resolve({ exit: error === null ? 0 : Number(error.code ?? -1), stderr: stderr.trim() }),
      );
      child.stdin!.on('error', () => undefined);
      child.stdin!.end(domainXml(this.run, domain));
    });
  }

  /** Ends daemon, gateway and line; exports are whoever's started them. */
  async stop(): Promise<void> {
    if (this.daemon !== null) await this.daemon.end();
    await this.gateway.end();
    await this.wan.stop();
  }
}

function accepts(address: { path: string } | { host: string; port: number }): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
