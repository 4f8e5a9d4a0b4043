/**
 * What an installed host has of xNBD, but for programs and documents that are made: which file of the clone goes
 * where. The packages and scripts/install.sh go by this table, so they put the same things in the same places.
 */
import { globSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { HostFile } from './host-file.ts';

export const top = join(import.meta.dirname, '../..');

interface Row {
  /** A pattern below the clone. */
  readonly from: string;
  /** A file, or with `/` at the end a directory. */
  readonly to: string;
  /** Default 644. */
  readonly mode?: number;
  readonly configuration?: boolean;
}

const rows: readonly Row[] = [
  // libvirtd runs a hook within its AppArmor profile when it lies here itself: no links.
  { from: 'hooks/qemu', to: '/etc/libvirt/hooks/qemu.d/xnbd', mode: 0o755, configuration: true },
  { from: 'hooks/libxl', to: '/etc/libvirt/hooks/libxl.d/xnbd', mode: 0o755, configuration: true },
  // It may hold paths of keys, no keys.
  { from: 'etc/xnbd.conf', to: '/etc/xnbd/xnbd.conf', configuration: true },
  { from: 'etc/org.xnbd1.conf', to: '/usr/share/dbus-1/system.d/' },
  {
    from: 'packaging/systemd/*.{service,slice,socket,target,timer,path,mount}',
    to: '/usr/lib/systemd/system/',
  },
  { from: 'packaging/systemd/*.preset', to: '/usr/lib/systemd/system-preset/' },
  { from: 'packaging/**/*.catalog', to: '/usr/lib/systemd/catalog/' },
  { from: 'packaging/sysusers.d/*.conf', to: '/usr/lib/sysusers.d/' },
  { from: 'packaging/tmpfiles.d/*.conf', to: '/usr/lib/tmpfiles.d/' },
  { from: 'packaging/polkit/*.rules', to: '/usr/share/polkit-1/rules.d/' },
  { from: 'packaging/apparmor/*', to: '/etc/apparmor.d/', configuration: true },
  { from: 'packaging/maintainer/*', to: '/usr/lib/xnbd/maintainer/', mode: 0o755 },
  { from: 'packaging/lintian-overrides', to: '/usr/share/lintian/overrides/xnbd-libvirt' },
  { from: 'packaging/selinux/*.cil', to: '/usr/share/selinux/packages/xnbd/' },
];

/** Directories that are there from the start: where images and records lie. */
export const stateDirectories = ['/var/lib/xnbd', '/var/lib/xnbd/images', '/var/lib/xnbd/exports'];

export function hostFiles(): HostFile[] {
  return rows.flatMap(({ from, to, mode = 0o644, configuration = false }) =>
    globSync(from, { cwd: top })
      .sort()
      .map((path) => join(top, path))
      .filter((path) => statSync(path).isFile())
      .map((file) => ({
        to: to.endsWith('/') ? `${to}${basename(file)}` : to,
        mode,
        from: { file },
        configuration,
      })),
  );
}
