/** A host that is gone from one moment to the next, and comes back: nobody there is asked, nobody else is told. */
import { randomUUID } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Site, Sites } from './sites.ts';

/** Where the kernel says which boot this is. */
const BOOT_ID = '/proc/sys/kernel/random/boot_id';

/** Our programs, libvirtd and every guest are gone, without a word on the network: its cable is out first. */
export async function vanish({ lab }: Sites, site: Site): Promise<void> {
  await lab.setCable(site.host, false);
  await killAll(site);
}

/** The same, but the network goes on: who is connected hears that nobody is there any more. */
export async function killAll(site: Site): Promise<void> {
  const { host, daemon, gateway } = site;
  const pids = await guestsOf(host.outside('/run/libvirt/qemu'));
  // The daemon first: it would start the others again.
  await daemon.end('SIGKILL');
  await gateway.end('SIGKILL');
  await host.stopLibvirtd('SIGKILL');
  for (const pid of [...pids, ...(await site.processes()).keys()]) process.kill(pid, 'SIGKILL');
}

async function guestsOf(directory: string): Promise<number[]> {
  const files = (await readdir(directory)).filter((name) => name.endsWith('.pid') && name !== 'driver.pid');
  return Promise.all(files.map(async (name) => Number(await readFile(join(directory, name), 'utf8'))));
}

/** libvirtd and our programs are started again, and the cable is in. */
export async function comeBack({ lab }: Sites, site: Site): Promise<void> {
  await lab.setCable(site.host, true);
  await site.host.startLibvirtd();
  await site.startGateway();
  await site.startDaemon();
}

/** The same after another boot of the machine: /run is empty, and the kernel says so. */
export async function boot(sites: Sites, site: Site): Promise<void> {
  const { host } = site;
  await writeFile(host.outside('/run/lab/boot_id'), `${randomUUID()}\n`);
  await host.exec(['mount', '--bind', '/run/lab/boot_id', BOOT_ID]);
  for (const directory of ['/run/xnbd', '/run/libvirt'].map((path) => host.outside(path)))
    for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true });
  await comeBack(sites, site);
}
