/** Which of libvirt's drivers this host can have. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Driver } from './calls.ts';

/**
 * Xen's only where Xen has booted the kernel: elsewhere libvirtd would log two errors each time it is asked.
 * @param root of the file system; tests have their own.
 */
export function driversOfHost(root = '/'): readonly Driver[] {
  return hypervisor(root) === 'xen' ? ['QEMU', 'Xen'] : ['QEMU'];
}

/** What the kernel runs on, or undefined on bare metal. */
function hypervisor(root: string): string | undefined {
  try {
    return readFileSync(join(root, 'sys/hypervisor/type'), 'utf8').trim();
  } catch {
    return undefined;
  }
}
