/**
 * Two sites for the end-to-end tests: the lab's two libvirt hosts, each with our gateway, our daemon and our hook, as an administrator
 * would have installed them, and somebody on each bus who writes down the signals.
 */
import { existsSync } from 'node:fs';
import { readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import dbus from 'dbus-next';
import { exportStatus } from '../../../src/control/client.ts';
import type { ExportStatus } from '../../../src/control/status.ts';
import { newRecord, writeRecord } from '../../../src/store/records/record.ts';
import type { DiskMode } from '../libvirt/domain-xml.ts';
import { defineGuest, type Guest } from '../libvirt/guest.ts';
import type { DiskReport } from '../libvirt/guest-reports.ts';
import { accepts, type Host } from '../libvirt/host.ts';
import { createLab, type Lab } from '../libvirt/lab.ts';
import { createPatternImage, differences } from '../libvirt/pattern.ts';
import { type Running, run } from '../processes.ts';
import { waitFor } from '../wait-for.ts';

const top = join(import.meta.dirname, '../../..');
const bin = join(top, 'dist/bin');
const MIB = 1024 * 1024;

export interface Signal {
  host: string;
  name: string;
  domain: string;
  /** What follows the domain's uuid. */
  rest: unknown;
  at: number;
}

export interface Site {
  readonly host: Host;
  daemon: Running;
  gateway: Running;
  startDaemon(): Promise<void>;
  startGateway(): Promise<void>;
  /** Status of an export, or undefined when none of that name answers. */
  status(name: string): Promise<ExportStatus | undefined>;
  /** The image, as a path outside. */
  image(name: string): string;
  /** Processes of exports, running here, by pid: the name of each. */
  processes(): Promise<Map<number, string>>;
  /** Names in the run directory, the images and the records: what a move that failed must not leave behind. */
  leftovers(): Promise<string[]>;
}

export interface Sites {
  readonly lab: Lab;
  readonly a: Site;
  readonly b: Site;
  /** a, b, and the third where it was asked for. */
  readonly all: readonly Site[];
  readonly signals: Signal[];
  destroy(): Promise<void>;
}

export interface SitesOptions {
  /** A third site. */
  third?: boolean;
  /** More of xnbd.conf. */
  config?: string;
  /** Done before any program of ours starts. */
  prepare?: (lab: Lab) => Promise<unknown>;
}

export async function createSites(options: SitesOptions = {}): Promise<Sites> {
  if (!existsSync(join(bin, 'xnbdd'))) {
    await run([process.execPath, join(top, 'scripts/build.ts')], { env: process.env });
  }
  const lab = await createLab({
    hook: join(top, 'hooks/qemu'),
    path: [bin],
    third: options.third ?? false,
  });
  const signals: Signal[] = [];
  const buses: dbus.MessageBus[] = [];
  const destroy = async (): Promise<void> => {
    for (const bus of buses) bus.disconnect();
    await lab.destroy();
  };
  try {
    await options.prepare?.(lab);
    const all = await Promise.all(lab.hosts.map((host) => createSite(host, options.config ?? '')));
    for (const site of all) buses.push(await listen(site.host, signals));
    return { lab, a: all[0]!, b: all[1]!, all, signals, destroy };
  } catch (error) {
    await destroy();
    throw error;
  }
}

async function createSite(host: Host, config: string): Promise<Site> {
  const lines = ['[gateway]', 'listen = 0.0.0.0:10809', `advertise = ${host.name}:10809`, 'tls = off'];
  await writeFile(
    host.outside('/etc/xnbd/xnbd.conf'),
    `${lines.join('\n')}\n${config}\n[log]\nlevel = debug\n`,
  );
  // As the host sees its files, mounts of its own included.
  const inside = (path: string): string => `/proc/${host.anchorPid}/root${path}`;
  const startGateway = (): Promise<Running> =>
    host.spawn([join(bin, 'xnbd-gateway')], { log: join(host.dir, 'gateway.log') });
  const startDaemon = async (): Promise<Running> => {
    const daemon = await host.spawn([join(bin, 'xnbdd')], { log: join(host.dir, `xnbdd.log`) });
    await waitFor(`xnbdd on ${host.name} (log: ${daemon.log})`, async () => {
      if (daemon.process.exitCode !== null) throw new Error(`xnbdd on ${host.name} has ended: ${daemon.log}`);
      return (await host.hasBusName('org.xnbd1')) && (await accepts(host.outside('/run/xnbd/hook.sock')));
    });
    return daemon;
  };
  const site: Site = {
    host,
    gateway: await startGateway(),
    daemon: await startDaemon(),
    startDaemon: async () => {
      site.daemon = await startDaemon();
    },
    startGateway: async () => {
      site.gateway = await startGateway();
    },
    status: (name) => exportStatus(host.outside(`/run/xnbd/${name}.ctl`)).catch(() => undefined),
    image: (name) => inside(`/var/lib/xnbd/images/${name}.img`),
    processes: () => exportProcesses(host),
    leftovers: async () => {
      const names = await Promise.all(
        ['/run/xnbd', '/var/lib/xnbd/images', '/var/lib/xnbd/exports'].map((path) => readdir(inside(path))),
      );
      // Logs tell afterwards what happened; the rest of these belongs to the daemon.
      return names
        .flat()
        .filter(
          (name) => !/^(hook\.sock|\.absent\.sock|announced|arriving|domains|missed|paths)$/.test(name),
        );
    },
  };
  return site;
}

async function exportProcesses(host: Host): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  const here = await readlink(`/proc/${host.anchorPid}/ns/mnt`);
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    // A process may end while it is looked at.
    if ((await readlink(`/proc/${pid}/ns/mnt`).catch(() => '')) !== here) continue;
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    const program = words.findIndex((word) => word.endsWith('/xnbd-export'));
    if (program !== -1) found.set(Number(pid), words[program + 2] ?? '');
  }
  return found;
}

/** Writes down the signals of a host's org.xnbd1. */
async function listen(host: Host, signals: Signal[]): Promise<dbus.MessageBus> {
  const bus = dbus.sessionBus({ busAddress: host.busAddress });
  await new Promise((resolve, reject) => {
    bus.once('connect', resolve);
    bus.once('error', reject);
  });
  bus.on('message', (message: dbus.Message) => {
    if (message.interface !== 'org.xnbd1.Manager' || !message.member.startsWith('Relocation')) return;
    const [, domain, , rest] = message.body as [string, string, string, unknown];
    signals.push({ host: host.name, name: message.member, domain, rest, at: Date.now() });
  });
  const match = new dbus.Message({
    destination: 'org.freedesktop.DBus',
    path: '/org/freedesktop/DBus',
    interface: 'org.freedesktop.DBus',
    member: 'AddMatch',
    signature: 's',
    body: ["type='signal',interface='org.xnbd1.Manager'"],
  });
  await bus.call(match);
  return bus;
}

/**
 * A guest on site a whose disks are pattern images of `mib` MiB that the daemon knows.
 * @param boots it boots more than once, and remembers none of its earlier writes: so it checks what it has written since, and nothing else
 */
export async function guestWithDisks(
  sites: Sites,
  name: string,
  modes: readonly DiskMode[],
  mib = 64,
  boots: 'once' | 'again' = 'once',
): Promise<Guest> {
  const { lab, a } = sites;
  const disks = modes.map((mode, index) => {
    const target = `vd${'abcd'[index]}`;
    return { target, export: `${name}-${target}`, mode, pattern: boots === 'once' };
  });
  for (const { export: disk } of disks) {
    await createPatternImage(a.image(disk), disk, mib * MIB);
    const record = newRecord(disk, `/var/lib/xnbd/images/${disk}.img`, mib * MIB);
    await writeRecord(a.host.outside(`/var/lib/xnbd/exports/${disk}`), record);
  }
  return defineGuest(lab, a.host, { name, disks, reboots: boots === 'again' });
}

/** Such a guest, which runs at site a and can move. */
export async function startedGuest(
  sites: Sites,
  ...guestOf: Parameters<typeof guestWithDisks> extends [Sites, ...infer Rest] ? Rest : never
): Promise<Guest> {
  const guest = await guestWithDisks(sites, ...guestOf);
  await guest.start(sites.a.host);
  await announced(sites.a, guest);
  return guest;
}

/** Waits until a guest's metadata says that its disks are at `site`: only then can it move on. */
export async function announced(site: Site, guest: Guest): Promise<void> {
  await waitFor(`the origins of ${guest.name} in its metadata on ${site.host.name}`, async () => {
    const xml = await site.host.virsh('dumpxml', guest.name);
    return guest.spec.disks.every((disk) =>
      xml.includes(`uri="nbd://${site.host.name}:10809/${disk.export}"`),
    );
  });
}

/** The signals of one guest's relocations to `site`, in order. */
export function signalsOf(sites: Sites, site: Site, guest: Guest): Signal[] {
  return sites.signals.filter(({ host, domain }) => host === site.host.name && domain === guest.name);
}

/** Waits until every disk of a guest is complete at `site` and its origin let go. */
export async function arrived(site: Site, guest: Guest, limitMs = 120_000): Promise<void> {
  for (const { export: disk } of guest.spec.disks) {
    let last: ExportStatus | undefined;
    const complete = async () => {
      last = await site.status(disk);
      return last?.state === 'serving' && last.origin === null && last.presentBytes === last.sizeBytes;
    };
    await waitFor(`${disk} to be complete on ${site.host.name}`, complete, limitMs).catch(
      (error: unknown) => {
        throw new Error(`${(error as Error).message}: ${JSON.stringify(last)}`);
      },
    );
  }
}

/**
 * Every byte that differs between the images at `site` and what the guest says it wrote.
 * @param reports of a guest that was booted more than once: each boot's last one, in order
 */
export async function wrongBytes(
  site: Site,
  guest: Guest,
  ...reports: Map<string, DiskReport>[]
): Promise<string[]> {
  const wrong = [...guest.errors];
  for (const { target, export: disk } of guest.spec.disks) {
    const { sizeBytes } = reports.at(-1)!.get(target)!;
    const writes = new Map(reports.flatMap((each) => [...each.get(target)!.writes]));
    wrong.push(...(await differences(site.image(disk), { exportName: disk, sizeBytes, writes })));
  }
  return wrong;
}
