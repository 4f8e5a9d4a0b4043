/** Guests that are brought to a standstill, by what one would take for TCG's fault and by what is a disk's. */
import { freezeThread } from '../libvirt/frozen-thread.ts';
import type { Guest } from '../libvirt/guest.ts';
import { monitor } from '../libvirt/standstill.ts';
import { waitFor } from '../wait-for.ts';
import type { Sites } from './sites.ts';

/** Its virtual CPU stands still, and QEMU, which needs nothing of it, answers. @returns lets it go on */
export async function freezeCpu({ a }: Sites, guest: Guest): Promise<() => void> {
  const [cpu] = await monitor<{ 'thread-id': number }[]>(a.host, guest.name, 'query-cpus-fast');
  return waitFor('a moment in which the virtual CPU holds nothing that QEMU needs', async () => {
    const thaw = freezeThread(cpu!['thread-id']);
    try {
      await monitor(a.host, guest.name, 'query-status');
      return thaw;
    } catch {
      thaw();
      return undefined;
    }
  });
}

/** An export answers nobody any more. @returns lets it go on */
export async function freezeExport({ a }: Sites, name: string): Promise<() => void> {
  const [pid] = [...(await a.processes())].find(([, each]) => each === name)!;
  process.kill(pid, 'SIGSTOP');
  return () => process.kill(pid, 'SIGCONT');
}
