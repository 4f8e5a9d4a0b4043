/** Two hosts at the ends of a line of packets: disks behind a gateway with TLS at one, proxies at the other. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TestCa } from '../../test/lab/host/certificates.ts';
import { addressOf, type PacketWan, type Site } from '../../test/lab/net/packets/packet-wan.ts';
import { type Running, start } from '../../test/lab/processes.ts';
import { waitFor } from '../../test/lab/wait-for.ts';
import { makeImage } from '../images.ts';

const PORT = 10809;

export interface Disk {
  name: string;
  image: string;
  sizeBytes: number;
}

/** A disk that is arriving. */
export interface Arriving {
  disk: Disk;
  /** Of the proxy, for the guest. */
  socket: string;
}

/** Images full of noise below `directory`. */
export async function makeDisks(directory: string, count: number, sizeBytes: number): Promise<Disk[]> {
  const disks: Disk[] = [];
  await mkdir(directory, { recursive: true });
  for (let at = 0; at < count; at++) {
    const disk = { name: `disk${at}`, image: join(directory, `disk${at}.img`), sizeBytes };
    await makeImage(disk.image, sizeBytes);
    disks.push(disk);
  }
  return disks;
}

/** Certificates of both hosts; made once. */
export async function makeCertificates(directory: string): Promise<Record<Site, string>> {
  const ca = await TestCa.make(join(directory, 'ca'));
  const issue = (site: Site): Promise<string> =>
    ca.issue(join(directory, `pki-${site}`), `${site}.example`, { altName: `IP:${addressOf[site]}` });
  return { a: await issue('a'), b: await issue('b') };
}

export class Hosts {
  readonly #wan: PacketWan;
  readonly #directory: string;
  readonly #programs: string;
  readonly #certificates: Record<Site, string>;
  readonly #started: Running[] = [];
  #logs = 0;

  /** @param directory for their sockets and copies, empty. @param programs a directory of built programs */
  constructor(wan: PacketWan, directory: string, programs: string, certificates: Record<Site, string>) {
    this.#wan = wan;
    this.#directory = directory;
    this.#programs = programs;
    this.#certificates = certificates;
  }

  /** Serves disks at `a` and begins to serve their proxies at `b`; nothing is taken over yet. */
  async lend(disks: readonly Disk[]): Promise<Arriving[]> {
    const run = join(this.#directory, 'run');
    await mkdir(run, { recursive: true });
    for (const { name, image } of disks)
      await this.#program('a', 'xnbd-export', ['target', name, '--image', image, ...this.#place(run, name)]);
    const config = join(this.#directory, 'xnbd.conf');
    const pki = this.#certificates.a;
    await writeFile(
      config,
      `[paths]\nrun = ${run}\nexports = ${run}\n[gateway]\nlisten = ${addressOf.a}:${PORT}\n[tls]\nallow = b.example\n` +
        `ca = ${pki}/ca-cert.pem\ncert = ${pki}/server-cert.pem\nkey = ${pki}/server-key.pem\n`,
    );
    await this.#program('a', 'xnbd-gateway', ['--config', config], 'listening on');
    const there = join(this.#directory, 'b');
    await mkdir(there, { recursive: true });
    return await Promise.all(
      disks.map(async (disk) => {
        const { name } = disk;
        await this.#program('b', 'xnbd-export', [
          ...['proxy', name, '--image', join(there, `${name}.img`), ...this.#place(there, name)],
          ...['--origin', `nbds://${addressOf.a}:${PORT}/${name}`, '--tls-dir', this.#certificates.b],
        ]);
        return { disk, socket: join(there, `${name}.sock`) };
      }),
    );
  }

  /** Runs another's program at a site; it ends with the hosts. */
  async also(site: Site, argv: readonly string[]): Promise<Running> {
    const log = join(this.#directory, `${this.#logs++}.log`);
    const running = await start(this.#wan.at(site, argv), { log });
    this.#started.push(running);
    return running;
  }

  async end(): Promise<void> {
    for (const each of this.#started.reverse()) await each.end('SIGKILL');
  }

  #place(directory: string, name: string): string[] {
    return ['--socket', join(directory, `${name}.sock`), '--state', join(directory, `${name}.state`)];
  }

  async #program(site: Site, name: string, args: readonly string[], ready = 'ready'): Promise<void> {
    const running = await this.also(site, [join(this.#programs, name), ...args]);
    await waitFor(`${name} ${args[1]}`, () => running.said().includes(ready) || !running.runs);
    if (!running.runs) throw new Error(`${name} has ended: ${running.said()}`);
  }
}
