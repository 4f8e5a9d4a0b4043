/*
 * A new libvirtd asks QEMU what it can do before the first guest is defined, and one on the other host in the middle of the first
 * migration: seconds each time. It keeps the answer, with the marks by which it sees whether it still holds, in files; the lab keeps those from
 * one run to the next.
 */
import { randomUUID } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Host } from './host.ts';

const KEPT = join(import.meta.dirname, '../../../.cache/libvirt-capabilities');
const LIBVIRTS = '/var/cache/libvirt/qemu/capabilities';

/** To be called before libvirtd starts. */
export async function giveCapabilities(host: Host): Promise<void> {
  await mkdir(KEPT, { recursive: true });
  await mkdir(host.outside(LIBVIRTS), { recursive: true });
  for (const name of await answers(KEPT))
    await copyFile(join(KEPT, name), join(host.outside(LIBVIRTS), name));
}

/** Has libvirtd ask QEMU now, if it must, and keeps the answer. */
export async function keepCapabilities(host: Host): Promise<void> {
  await host.virsh('domcapabilities', '--virttype', 'qemu', '--arch', 'x86_64');
  for (const name of await answers(host.outside(LIBVIRTS))) {
    const [from, to] = [join(host.outside(LIBVIRTS), name), join(KEPT, name)];
    if (await same(from, to)) continue;
    const draft = join(KEPT, randomUUID());
    await copyFile(from, draft);
    await rename(draft, to);
  }
}

const answers = async (directory: string): Promise<string[]> =>
  (await readdir(directory)).filter((name) => name.endsWith('.xml'));

async function same(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([readFile(one), readFile(other).catch(() => undefined)]);
  return b !== undefined && a.equals(b);
}
