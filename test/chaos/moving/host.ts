/**
 * One host of a story: a directory, a gateway behind an emulated line, and, where it drives the moves, a
 * daemon.
 */
import { XnbdHost } from '../../lab/host/xnbd-host.ts';
import { freePort } from '../../lab/net/free-port.ts';
import { startWan, type Wan } from '../../lab/net/wan.ts';
import type { HostName, Plan } from '../plan.ts';

/** Seconds: what a migrate hook has set up and nobody came for is cleared away after them. */
const PREPARE_TIMEOUT = 15;
/** In the certificates of every host (test/lab/host/certificates.ts). */
export const TLS_NAME = 'chaos.example';

export class ChaosHost extends XnbdHost {
  readonly name: HostName;
  /** Where the others reach its gateway. */
  wan!: Wan;
  readonly #scheme: 'nbd' | 'nbds';

  private constructor(name: HostName, dir: string, tls: boolean) {
    super(dir, true);
    this.name = name;
    this.#scheme = tls ? 'nbds' : 'nbd';
  }

  /** @param pki directory with certificates */
  static async start(name: HostName, dir: string, pki: string, plan: Plan): Promise<ChaosHost> {
    const host = new ChaosHost(name, dir, plan.tls);
    const gateway = `127.0.0.1:${await freePort()}`;
    host.wan = await startWan({ to: gateway, rttMs: plan.rttMs, rateMbit: plan.rateMbit });
    const tls = plan.tls
      ? `tls = required\n[tls]\nca = ${pki}/ca-cert.pem\ncert = ${pki}/server-cert.pem\nkey = ${pki}/server-key.pem\nallow = ${TLS_NAME}\n`
      : 'tls = off\n';
    await host.furnish(
      `[relocation]\nretired = ${plan.retired}\nprepare-timeout = ${PREPARE_TIMEOUT}\n` +
        `[gateway]\nlisten = ${gateway}\nadvertise = ${host.wan.address}\n${tls}`,
    );
    await host.startGateway();
    if (plan.driver === 'daemon') await host.startDaemon();
    return host;
  }

  get daemonRuns(): boolean {
    return this.daemon?.runs ?? false;
  }

  /** Of an export of this host, for the others. */
  uri(name: string): string {
    return `${this.#scheme}://${this.wan.address}/${name}`;
  }

  /** Ends daemon, gateway and line; exports are whoever's started them. */
  async stop(): Promise<void> {
    await this.daemon?.end();
    await this.gateway?.end();
    await this.wan.stop();
  }
}
