import { randomUUID } from 'node:crypto';
import type { GuestSystem } from './guest-system.ts';
import { diskTag } from './pattern.ts';

/** What the guest does with a disk: see guest/init.c. */
export type DiskMode = 'rewrite' | 'write-only' | 'idle';

export type GuestDisk = {
  /** `vda`, `vdb`, ... */
  target: string;
  /** Name of the export; the guest's QEMU connects to /run/xnbd/EXPORT.sock. */
  export: string;
  mode: DiskMode;
  /** True (default): the image comes from `createPatternImage`, and the guest checks blocks that it never wrote, too. */
  pattern?: boolean;
  /**
   * What QEMU does while the export is away: `report` (default): gives the guest EIO; `stop`: stops the guest;
   * `wait`: waits ten seconds before it stops the guest, where libvirt knows how to have it wait.
   */
  away?: 'report' | 'stop' | 'wait';
};

export type GuestSpec = {
  /** Letters, digits, `-` and `.` */
  name: string;
  disks: readonly GuestDisk[];
  /** Milliseconds that the guest rests between two steps on a disk. Default 20. */
  pauseMs?: number;
  /** How many places, spread over the disk, it writes to besides the first blocks. Default 512. */
  spread?: number;
  /** A reboot is one; by default it is the guest's end. */
  reboots?: boolean;
  /** Children of `<metadata>`. */
  metadata?: string;
  /** More children of `<devices>`. */
  devices?: string;
};

/** In the guest's file system: what it prints. */
export const consolePath = (name: string): string => `/var/log/libvirt/qemu/${name}.console`;
/** A unix socket: what it is told. */
export const commandPath = (name: string): string => `/run/lab/${name}.cmd`;

const KERNEL_ARGUMENTS = [
  'console=ttyS0',
  // Only a panic may break into the guest's own lines.
  'loglevel=1',
  'panic=1',
  // Whatever breaks the kernel is seen, and ends the guest.
  'oops=panic',
  // On a busy machine too few ticks arrive for the kernel's test of the timer, and it would panic.
  'no_timer_check',
  // Boots faster.
  'nokaslr',
  'mitigations=off',
  'audit=0',
];

const disk = (each: GuestDisk): string => `    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none'${(each.away ?? 'report') === 'report' ? '' : " error_policy='stop' rerror_policy='stop'"}/>
      <source protocol='nbd' name='${each.export}'><host transport='unix' socket='/run/xnbd/${each.export}.sock'/>${each.away === 'wait' ? "<reconnect delay='10'/>" : ''}</source>
      <target dev='${each.target}' bus='virtio'/>
    </disk>`;

const argument = (each: GuestDisk): string =>
  `xnbd.${each.target}=${each.mode}:${diskTag(each.export).toString(16)}${each.pattern === false ? '' : ':pattern'}`;

/** A TCG guest with one CPU and 128 MiB, the disks on NBD over unix sockets, and two serial ports: console and commands. */
export function domainXml(spec: GuestSpec, system: GuestSystem): string {
  const { name, disks, pauseMs = 20, spread = 512, reboots = false, metadata = '', devices = '' } = spec;
  const odd = [name, ...disks.flatMap((each) => [each.target, each.export])].find(
    (word) => !/^[\w.-]+$/.test(word),
  );
  if (odd !== undefined) throw new Error(`${odd}: no name for a guest, a target or an export`);
  const words = [...KERNEL_ARGUMENTS, `xnbd.pause=${pauseMs}`, `xnbd.spread=${spread}`];
  return `<domain type='qemu'>
  <name>${name}</name>
  <uuid>${randomUUID()}</uuid>
  <metadata>${metadata}</metadata>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${system.kernel}</kernel>
    <initrd>${system.initramfs}</initrd>
    <cmdline>${[...words, ...disks.map(argument)].join(' ')}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>${reboots ? 'restart' : 'destroy'}</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
${disks.map(disk).join('\n')}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='${consolePath(name)}' append='on'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='${commandPath(name)}'/><target port='1'/></serial>
    ${devices}
  </devices>
</domain>
`;
}
