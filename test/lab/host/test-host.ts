/** A host of a test of the daemon: its own disks, and a front door of its own in this process. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatAddress } from '../../../src/config/address.ts';
import { exportStatus } from '../../../src/control/client.ts';
import { exportRuns, killExport } from '../../../src/daemon/exports/export-process.ts';
import { type Gateway, startGateway } from '../../../src/gateway/gateway.ts';
import { listenPlain } from '../../../src/gateway/transport.ts';
import { type ExportRecord, newRecord, readRecord, writeRecord } from '../../../src/store/records/record.ts';
import type { TestDomain } from './test-domain.ts';
import { type HookOptions, XnbdHost } from './xnbd-host.ts';

export const MIB = 1024 * 1024;

export interface TestHostOptions {
  /** Lines of xnbd.conf after [paths]. */
  config?: string;
  busAddress?: string;
  /** In place of this release's xnbd-export. */
  exportProgram?: string;
}

export class TestHost extends XnbdHost {
  /** In this process: hosts reach each other's exports through it, in the clear. */
  #front: Gateway | undefined;

  static async make(options: TestHostOptions = {}): Promise<TestHost> {
    const host = new TestHost(await mkdtemp(join(tmpdir(), 'xh-')), false, {
      ...(options.busAddress !== undefined && { DBUS_SYSTEM_BUS_ADDRESS: options.busAddress }),
      ...(options.exportProgram !== undefined && { XNBD_EXPORT: options.exportProgram }),
    });
    host.#front = await startGateway({
      run: host.run,
      records: host.exports,
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    const advertise = formatAddress(host.#front.address);
    await host.furnish(`[gateway]\ntls = off\nadvertise = ${advertise}\n${options.config ?? ''}`);
    return host;
  }

  /** Ends the daemon, if it runs. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.daemon?.end(signal, 30_000);
  }

  /** What the daemon has said so far, and those before it. */
  async log(): Promise<string> {
    return readFile(join(this.dir, 'xnbdd.log'), 'utf8').catch(() => '');
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
    return `nbd://${formatAddress(this.#front!.address)}/${name}`;
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
    await this.#front?.close(0);
    await rm(this.dir, { recursive: true, force: true });
  }
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
