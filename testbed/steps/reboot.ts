/**
 * The machine where the guest runs is shut down while its disk still arrives, and boots again.
 *
 * Shutdown: guests first, then their disks, then the daemon. Boot: libvirt starts the guest by itself and it finds its disk; the
 * relocation goes on until the disk is complete, and holds what the guest wrote before and since.
 */
import { type Bed, tell } from '../bed.ts';
import { diskOf, untilDiskIs } from '../disk.ts';
import { EXPORT, GUEST } from '../guest/guest.ts';
import type { Machine } from '../machine/machine.ts';
import type { Step } from '../step.ts';
import { migrate } from './move.ts';

/** So slow that the disk is not complete before the machine is shut down. */
const SLOW = '500k';

export const reboot: Step = {
  name: 'reboot',
  limitS: 1200,
  async run(bed) {
    const { machines, guest } = bed;
    const from = await guest.where();
    const to = machines.find((each) => each !== from)!;
    const moved = await migrate(bed, from, to);
    tell(await to.sh(`xnbdctl limit ${EXPORT} ${SLOW} && virsh -q autostart ${GUEST}`));
    const before = await guest.stop();
    await guest.go();
    await guest.progress();
    const { presentBytes, sizeBytes, state } = await diskOf(to);
    if (state !== 'relocating') throw new Error(`the disk is ${state}: nothing is left that could go on`);
    tell(`${moved}; ${presentBytes} of ${sizeBytes} bytes are there when ${to.name} is shut down`);
    const seconds = await offAndOn(bed, to);
    const order = await orderOfShutdown(to);
    const again = await diskOf(to);
    if (again.presentBytes < presentBytes)
      throw new Error(`${again.presentBytes} bytes are left of ${presentBytes}`);
    await to.sh(`xnbdctl limit ${EXPORT} none`);
    await untilDiskIs(to, 'serving');
    await guest.progress();
    const since = await guest.stop();
    await guest.compare(to, (await diskOf(to)).image, since, before);
    await guest.go();
    return (
      `${to.name} ${order}; off in ${seconds.off} s, the guest was back ${seconds.on} s later by itself; ` +
      `its disk, of which ${presentBytes} bytes had arrived, is complete and right`
    );
  },
};

async function offAndOn({ guest }: Bed, machine: Machine): Promise<{ off: number; on: number }> {
  const begun = performance.now();
  await machine.shutDown();
  const off = performance.now();
  await guest.boots(async () => {
    await machine.boot();
    await guest.follow(machine);
  });
  return { off: Math.round((off - begun) / 1000), on: Math.round((performance.now() - off) / 1000) };
}

/** From the journal of the boot before. @throws Error when one stopped before those that use it */
async function orderOfShutdown(machine: Machine): Promise<string> {
  const journal = await machine.sh('journalctl -b -1 -o short-monotonic --no-pager | tail -n 400');
  const lines = journal.split('\n');
  tell(
    lines
      .filter((line) => /xnbd|qemu|libvirt/i.test(line) && !/apparmor|xen:/.test(line))
      .slice(-40)
      .join('\n'),
  );
  const unit = `xnbd-export@${EXPORT}.service`;
  const stages = [
    [
      'guest',
      lines.findLastIndex((line) => /machine-qemu.*scope: Deactivated|Stopped machine-qemu/.test(line)),
    ],
    ['libvirtd', lines.findLastIndex((line) => line.includes('libvirtd.service: Deactivated'))],
    ['disk', lines.findLastIndex((line) => line.includes(`${unit}: Deactivated`))],
    ['xnbdd', lines.findLastIndex((line) => line.includes('xnbdd.service: Deactivated'))],
  ] as const;
  const order = [...stages].sort(([, x], [, y]) => x - y).map(([name]) => name);
  const silent = stages.filter(([, line]) => line === -1).map(([name]) => name);
  if (silent.length > 0)
    throw new Error(`the journal does not tell when these stopped: ${silent.join(', ')}`);
  if (order.join() !== 'guest,libvirtd,disk,xnbdd')
    throw new Error(`stopped in the order ${order.join(', ')}`);
  return `stopped ${order.join(', ')} in this order`;
}
