/*
 * Two real libvirt hosts, `a` and `b`, on one machine, joined by a network link; guests on them whose every write can be checked.
 *
 *     const lab = await createLab({ hook: 'hooks/qemu' });
 *     await createPatternImage(lab.a.outside('/var/lib/xnbd/images/vm1-vda.img'), 'vm1-vda', 32 * 1024 * 1024);
 *     ... something that serves it on host a at /run/xnbd/vm1-vda.sock, by lab.a.spawn([...]) ...
 *     const disks = [{ target: 'vda', export: 'vm1-vda', mode: 'rewrite' }];
 *     const guest = await defineGuest(lab, lab.a, { name: 'vm1', disks });
 *     await guest.start(lab.a);
 *     await guest.progress();                        // it writes and verifies
 *     await guest.migrate(lab.a, lab.b);
 *     const { sizeBytes, writes } = (await guest.stop()).get('vda')!;
 *     await differences(image, { exportName: 'vm1-vda', sizeBytes, writes });   // [] when every byte is right
 *     await lab.destroy();
 *
 * Needs root, Debian's programs (scripts/setup.sh) and, once, a mirror to fetch the guest's kernel from; `labUnavailable` says what is
 * missing. Labs have nothing in common but the machine: any number may run at once, and one that crashed hinders none.
 */

import { constants } from 'node:fs';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { giveCapabilities, keepCapabilities } from './capabilities.ts';
import { guestSystem } from './guest-system.ts';
import { createHost, type Host } from './host.ts';
import { run } from './processes.ts';

const ADDRESSES = { a: '10.77.0.1', b: '10.77.0.2' };

const PROGRAMS = [
  'unshare',
  'nsenter',
  'ip',
  'gcc',
  'dpkg-deb',
  'apt-get',
  'dbus-daemon',
  'dbus-send',
  'libvirtd',
  'virsh',
  'libvirt-dbus',
  'qemu-system-x86_64',
];

export type LabOptions = {
  /** A script to be /etc/libvirt/hooks/qemu on both hosts. */
  hook?: string;
  /** Directories before the usual ones in the PATH of everything that runs on the hosts, hooks included. */
  path?: readonly string[];
  /** Rate of the link between the hosts in each direction, Mbit/s. Default: as fast as it goes. */
  rateMbit?: number;
};

export type Lab = {
  readonly a: Host;
  readonly b: Host;
  /** Aborted when the lab is destroyed. */
  readonly ended: AbortSignal;
  /** Limits the link to so many Mbit/s in each direction; undefined: as fast as it goes. */
  readonly setRate: (mbit: number | undefined) => Promise<void>;
  /** Ends both hosts with everything that runs there, and removes their files. */
  readonly destroy: () => Promise<void>;
};

/** Makes the hosts and starts dbus-daemon, libvirtd and libvirt-dbus on each. */
export async function createLab(options: LabOptions = {}): Promise<Lab> {
  const dir = await mkdtemp('/tmp/xl-');
  const hosts: Host[] = [];
  const ended = new AbortController();
  const destroy = async (): Promise<void> => {
    ended.abort();
    await Promise.all(hosts.map((host) => host.destroy()));
    await rm(dir, { recursive: true, force: true });
  };
  try {
    const { hook, path } = options;
    for (const name of ['a', 'b'])
      hosts.push(
        await createHost({
          dir: join(dir, name),
          name,
          addresses: ADDRESSES,
          ...(hook !== undefined && { hook }),
          ...(path !== undefined && { path }),
        }),
      );
    const [a, b] = hosts as [Host, Host];
    await link(a, b);
    const setRate = async (mbit: number | undefined): Promise<void> => {
      await Promise.all([limit(a, mbit), limit(b, mbit)]);
    };
    if (options.rateMbit !== undefined) await setRate(options.rateMbit);
    await Promise.all(
      [a, b].map(async (host) => {
        await giveCapabilities(host);
        await host.startDaemons();
        await keepCapabilities(host);
      }),
    );
    return { a, b, ended: ended.signal, setRate, destroy };
  } catch (error) {
    await destroy();
    throw error;
  }
}

async function link(a: Host, b: Host): Promise<void> {
  await a.exec([
    'ip',
    'link',
    'add',
    'eth0',
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'netns',
    String(b.anchorPid),
  ]);
  for (const host of [a, b]) {
    await host.exec(['ip', 'address', 'add', `${host.address}/24`, 'dev', 'eth0']);
    await host.exec(['ip', 'link', 'set', 'eth0', 'up']);
  }
}

async function limit(host: Host, mbit: number | undefined): Promise<void> {
  await host.exec(['tc', 'qdisc', 'del', 'dev', 'eth0', 'root'], { check: false });
  if (mbit === undefined) return;
  const shape = ['rate', `${mbit}mbit`, 'burst', '64kb', 'latency', '200ms'];
  await host.exec(['tc', 'qdisc', 'add', 'dev', 'eth0', 'root', 'tbf', ...shape]);
}

let reason: Promise<string | undefined> | undefined;

/** Why no lab can run on this machine, in one line; undefined when it can. Fetches the guest's kernel if that was never done. */
export function labUnavailable(): Promise<string | undefined> {
  reason ??= whyNot();
  return reason;
}

async function whyNot(): Promise<string | undefined> {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the lab needs Linux on x86-64';
  if (process.getuid?.() !== 0) return 'the lab needs root';
  const missing = (
    await Promise.all(PROGRAMS.map(async (name) => ((await installed(name)) ? [] : [name])))
  ).flat();
  if (missing.length > 0) return `not installed: ${missing.join(' ')} (sh scripts/setup.sh)`;
  try {
    await run([
      'unshare',
      '--mount',
      '--uts',
      '--net',
      '--',
      'sh',
      '-c',
      'mount -t tmpfs none /mnt && ip link add x0 type veth peer name x1',
    ]);
  } catch (error) {
    return `no namespaces, mounts or veth here: ${(error as Error).message}`;
  }
  try {
    await guestSystem();
  } catch (error) {
    return `no guest: ${(error as Error).message}`;
  }
  return undefined;
}

async function installed(program: string): Promise<boolean> {
  const places = ['/usr/sbin', '/usr/bin', '/sbin', '/bin'].map((place) => join(place, program));
  const found = places.map((place) => access(place, constants.X_OK));
  return Promise.any(found).then(
    () => true,
    () => false,
  );
}
