/** The guest's definition, as an administrator without xNBD may have it: one disk in a file. */
import { diskTag } from '../../test/lab/libvirt/pattern.ts';

export const DISK = 'vda';
export const FILES = '/var/lib/libvirt/boot';
export const IMAGE = '/var/lib/libvirt/images/vm1.img';
export const CONSOLE = '/var/log/libvirt/qemu/vm1.console';
export const COMMANDS = '/run/vm1.commands';

const KERNEL_ARGUMENTS = [
  ...['console=ttyS0', 'loglevel=1', 'panic=1', 'oops=panic'],
  // No clock is to be trusted where a busy machine emulates the machine that emulates the guest.
  ...['no_timer_check', 'nokaslr', 'mitigations=off', 'audit=0', 'nowatchdog'],
  // A quarter of the boot.
  ...['acpi=off', 'noapic', 'init_on_alloc=0', 'cryptomgr.notests', 'rodata=off'],
];

/** @param kernel, initramfs names of files in `FILES`. */
export function definition(guest: string, exportName: string, kernel: string, initramfs: string): string {
  const work = [
    'xnbd.pause=100',
    'xnbd.spread=256',
    `xnbd.${DISK}=rewrite:${diskTag(exportName).toString(16)}`,
  ];
  return `<domain type='qemu'>
  <name>${guest}</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${FILES}/${kernel}</kernel>
    <initrd>${FILES}/${initramfs}</initrd>
    <cmdline>${[...KERNEL_ARGUMENTS, ...work].join(' ')}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='${IMAGE}'/>
      <target dev='${DISK}' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='${CONSOLE}' append='on'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='${COMMANDS}'/><target port='1'/></serial>
  </devices>
</domain>
`;
}
