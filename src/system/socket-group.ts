/**
 * The group that may connect to an export's NBD socket besides root: the one that libvirt runs QEMU in.
 * Distributions call it `libvirt-qemu` (Debian) or `qemu` (Fedora); libvirt itself hands unix sockets of
 * network disks to nobody.
 */
import { readFileSync } from 'node:fs';

const distributions = ['libvirt-qemu', 'qemu'];

/**
 * Its id; undefined where there is none. @param group another one, by name. @throws Error naming a group that
 * is not.
 */
export function qemuGroup(group?: string): number | undefined {
  const id = groupId(group === undefined ? distributions : [group]);
  if (id === undefined && group !== undefined)
    throw new Error(`there is no group '${group}' on this host: see /etc/group`);
  return id;
}

/** Of the first of these groups that this host has. */
export function groupId(names: readonly string[]): number | undefined {
  const groups = new Map<string, number>();
  for (const line of readFileSync('/etc/group', 'utf8').split('\n')) {
    const [name, , id] = line.split(':');
    if (name !== undefined && id !== undefined) groups.set(name, Number(id));
  }
  return names.map((name) => groups.get(name)).find((id) => id !== undefined);
}
