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

import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isInstalled } from '../installed.ts';
import { run } from '../processes.ts';
import { giveCapabilities, keepCapabilities } from './capabilities.ts';
import type { Guest } from './guest.ts';
import { guestSystem } from './guest-system.ts';
import { createHost, type Host } from './host.ts';

const ADDRESSES = { a: '10.77.0.1', b: '10.77.0.2', c: '10.77.0.3' };

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
  /** A third host, `c`. */
  third?: boolean;
};

export type Lab = {
  readonly a: Host;
  readonly b: Host;
  /** All of them: a, b, and c where it was asked for. */
  readonly hosts: readonly Host[];
  /** Every guest that was defined here. */
  readonly guests: Guest[];
  /** Aborted when the lab is destroyed. */
  readonly ended: AbortSignal;
  /** Limits what a host (left out: every host) sends to so many Mbit/s; undefined: as fast as it goes. */
  readonly setRate: (mbit: number | undefined, sender?: Host) => Promise<void>;
  /** Limits what every host sends from a TCP port to so many Mbit/s, and nothing else; until the next `setRate`. */
  readonly setPortRate: (port: number, mbit: number) => Promise<void>;
  /** Takes a host's cable out, or puts it back. */
  readonly setCable: (host: Host, plugged: boolean) => Promise<void>;
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
    for (const name of options.third === true ? ['a', 'b', 'c'] : ['a', 'b'])
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
    const cables: Cable[] = [];
    for (const [index, host] of hosts.entries())
      for (const other of hosts.slice(index + 1)) cables.push(await connect(host, other, cables));
    const ends = cables.flatMap((cable) => cable.ends);
    const setRate = async (mbit: number | undefined, sender?: Host): Promise<void> => {
      const wanted = ends.filter(({ host }) => sender === undefined || host === sender);
      await Promise.all(wanted.map((end) => limit(end, mbit === undefined ? [] : allLimited(end, mbit))));
    };
    const setPortRate = async (port: number, mbit: number): Promise<void> => {
      await Promise.all(ends.map((end) => limit(end, portLimited(end, port, mbit))));
    };
    const setCable = async (host: Host, plugged: boolean): Promise<void> => {
      for (const { device } of ends.filter((end) => end.host === host))
        await host.exec(['ip', 'link', 'set', device, plugged ? 'up' : 'down']);
    };
    if (options.rateMbit !== undefined) await setRate(options.rateMbit);
    await Promise.all(
      hosts.map(async (host) => {
        await giveCapabilities(host);
        await host.startDaemons();
        await keepCapabilities(host);
      }),
    );
    return { a, b, hosts, guests: [], ended: ended.signal, setRate, setPortRate, setCable, destroy };
  } catch (error) {
    await destroy();
    throw error;
  }
}

interface End {
  readonly host: Host;
  readonly device: string;
  /** What limits what the host sends there, as tc was told; empty: nothing does. */
  limit: string;
}

interface Cable {
  ends: readonly [End, End];
}

/** Joins two hosts; the devices are eth0, eth1, ... */
async function connect(one: Host, other: Host, cables: readonly Cable[]): Promise<Cable> {
  const next = (host: Host): string =>
    `eth${cables.filter(({ ends }) => ends.some((end) => end.host === host)).length}`;
  const ends = [
    { host: one, device: next(one), limit: '' },
    { host: other, device: next(other), limit: '' },
  ] as const;
  const peer = ['peer', 'name', ends[1].device, 'netns', String(other.anchorPid)];
  await one.exec(['ip', 'link', 'add', ends[0].device, 'type', 'veth', ...peer]);
  for (const [{ host, device }, far] of [
    [ends[0], other],
    [ends[1], one],
  ] as const) {
    await host.exec(['ip', 'address', 'add', host.address, 'peer', `${far.address}/32`, 'dev', device]);
    await host.exec(['ip', 'link', 'set', device, 'up']);
  }
  return { ends };
}

/**
 * In one go: between the old limit and the new one nothing may pass that is not limited, and on a busy machine a
 * second may lie between two programs.
 */
async function limit(end: End, rules: readonly string[]): Promise<void> {
  const wanted = rules.join('\n');
  if (end.limit === wanted) return;
  const batch = [...(end.limit === '' ? [] : [`qdisc del dev ${end.device} root`]), ...rules, ''];
  end.limit = wanted;
  await end.host.exec(['tc', '-batch', '-'], { input: batch.join('\n') });
}

function allLimited({ device }: End, mbit: number): string[] {
  return [`qdisc add dev ${device} root tbf rate ${mbit}mbit burst 64kb latency 200ms`];
}

function portLimited({ device }: End, port: number, mbit: number): string[] {
  const packets = `protocol ip prio 1 u32 match ip sport ${port} 0xffff`;
  return [
    `qdisc add dev ${device} root handle 1: htb default 1`,
    `class add dev ${device} parent 1: classid 1:1 htb rate 10gbit quantum 60000`,
    `class add dev ${device} parent 1: classid 1:2 htb rate ${mbit}mbit`,
    `filter add dev ${device} parent 1: ${packets} flowid 1:2`,
  ];
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
  const missing = PROGRAMS.filter((name) => !isInstalled(name));
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
