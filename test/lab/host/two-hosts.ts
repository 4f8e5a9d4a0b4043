/**
 * Two hosts, A and B, whose exports reach each other by their unix sockets, and one domain that runs at A.
 */
import { randomUUID } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { originMetadata, originNamespace } from '../../../src/libvirt/domain-xml.ts';
import { waitFor } from '../wait-for.ts';
import type { TestDomain } from './test-domain.ts';
import { MIB, TestHost, type TestHostOptions } from './test-host.ts';

export interface TwoHostsOptions extends TestHostOptions {
  /** Names of the domain's disks. */
  disks?: readonly string[];
  /** MiB of each disk, all of them data. */
  fullMib?: number;
}

export class TwoHosts {
  readonly a: TestHost;
  readonly b: TestHost;
  readonly vm: TestDomain;

  private constructor(a: TestHost, b: TestHost, disks: readonly string[]) {
    this.a = a;
    this.b = b;
    this.vm = { name: 'vm1', uuid: randomUUID(), disks: [...disks] };
  }

  /**
   * Both daemons run; the domain has been started at A, each of its disks with 1 MiB of data in 8, unless
   * another size is asked for: then it is full.
   */
  static async make(options: TwoHostsOptions = {}): Promise<TwoHosts> {
    const { busAddress, disks = ['vm1-vda', 'vm1-vdb'], fullMib, ...others } = options;
    const two = new TwoHosts(
      await TestHost.make(others),
      await TestHost.make(busAddress === undefined ? others : { ...others, busAddress }),
      disks,
    );
    const { a, b, vm } = two;
    await Promise.all([a.startDaemon(), b.startDaemon()]);
    for (const name of vm.disks) {
      await a.addDisk(name, {}, (fullMib ?? 8) * MIB);
      const image = await open(join(a.dir, 'images', `${name}.img`), 'r+');
      const [length, at] = fullMib === undefined ? [MIB, MIB] : [fullMib * MIB, 0];
      await image.write(Buffer.alloc(length, name), 0, length, at);
      await image.close();
    }
    await a.succeeds('prepare', vm);
    await a.succeeds('started', vm);
    return two;
  }

  /** The domain as the hooks of its destination see it. */
  async travelling(from = this.a, uri = (name: string): string => from.uri(name)): Promise<TestDomain> {
    const disks = await Promise.all(
      this.vm.disks.map(async (name) => ({ ...(await from.status(name)), uri: uri(name) })),
    );
    return { ...this.vm, origin: asLibvirtKeepsIt(originMetadata(disks)) };
  }

  /** The hooks of B until its QEMU waits for the guest. */
  async arrive(): Promise<void> {
    const domain = await this.travelling();
    for (const op of ['migrate', 'prepare', 'start', 'started']) await this.b.succeeds(op, domain);
  }

  /** The hooks of A once its guest has left. */
  async leave(): Promise<void> {
    for (const op of ['stopped', 'release']) await this.a.succeeds(op, this.vm);
  }

  states(host: TestHost): Promise<(string | undefined)[]> {
    return Promise.all(this.vm.disks.map((name) => host.state(name)));
  }

  /** Waits until every disk of the domain is in this state at `host`; undefined: does not run. */
  async become(host: TestHost, state: string | undefined): Promise<void> {
    await waitFor(`every disk is ${state}`, async () => {
      const now = await this.states(host);
      return now.every((is) => is === state);
    });
  }

  async remove(): Promise<void> {
    await this.b.remove();
    await this.a.remove();
  }
}

/** libvirt puts our element into the namespace that it was given with. */
export function asLibvirtKeepsIt(metadata: string): string {
  return metadata
    .replace('<origin>', `<xnbd:origin xmlns:xnbd="${originNamespace}">`)
    .replace('</origin>', '</xnbd:origin>');
}
