/**
 * What our programs hold on a host at one moment: memory, file descriptors, processes, files. Taken at points
 * where nothing is under way, it must be the same each time the guest is there.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';
import type { Site } from '../../lab/sites/sites.ts';

/** The processes of one program, together. */
export interface Holding {
  processes: number;
  /** MiB; a page that several processes map counts in parts. */
  pss: number;
  /** MiB. */
  rss: number;
  descriptors: number;
  sockets: number;
}

export interface Census {
  xnbdd: Holding;
  gateway: Holding;
  exports: Holding;
  /** Below /run/xnbd and /var/lib/xnbd, directories included. */
  files: string[];
}

const DIRECTORIES = ['/run/xnbd', '/var/lib/xnbd'];

/** @throws Error when daemon or gateway is not there. */
export async function takeCensus(site: Site): Promise<Census> {
  const programs = await programsOf(site);
  const of = (program: string): number[] =>
    [...programs].flatMap(([pid, name]) => (name === program ? [pid] : []));
  return {
    xnbdd: await holdingOf(of('xnbdd')),
    gateway: await holdingOf(of('xnbd-gateway')),
    exports: await holdingOf(of('xnbd-export')),
    files: await filesOf(site),
  };
}

/** Every process of ours in the host's namespaces, by pid: the program's name. */
async function programsOf(site: Site): Promise<Map<number, string>> {
  const here = await readlink(`/proc/${site.host.anchorPid}/ns/mnt`);
  const found = new Map<number, string>();
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    // A process may end while it is looked at.
    if ((await readlink(`/proc/${pid}/ns/mnt`).catch(() => '')) !== here) continue;
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    const program = words.map((word) => /\/(xnbdd|xnbd-[a-z]+)$/.exec(word)?.[1]).find((name) => name);
    if (program !== undefined) found.set(Number(pid), program);
  }
  return found;
}

async function holdingOf(pids: number[]): Promise<Holding> {
  const total: Holding = { processes: pids.length, pss: 0, rss: 0, descriptors: 0, sockets: 0 };
  for (const pid of pids) {
    const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
    const mib = (name: string): number =>
      Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(rollup)?.[1]) / 1024;
    total.pss += mib('Pss');
    total.rss += mib('Rss');
    for (const descriptor of await readdir(`/proc/${pid}/fd`)) {
      const open = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => undefined);
      if (open === undefined) continue;
      total.descriptors += 1;
      if (open.startsWith('socket:')) total.sockets += 1;
    }
  }
  return total;
}

async function filesOf(site: Site): Promise<string[]> {
  const below = DIRECTORIES.map(async (directory) => {
    const names = await readdir(`/proc/${site.host.anchorPid}/root${directory}`, { recursive: true });
    return names.map((name) => `${directory}/${name}`);
  });
  // The name of a relocation's file changes with each move; that there is one more does not.
  return (await Promise.all(below)).flat().sort();
}
