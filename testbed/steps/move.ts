/** `virsh migrate --live` over TLS, while the guest writes: there, back, and on again before the disk is complete. */
import type { Bed } from '../bed.ts';
import { tell } from '../bed.ts';
import { diskOf, untilDiskIs } from '../disk.ts';
import { EXPORT, GUEST } from '../guest/guest.ts';
import type { Machine } from '../machine/machine.ts';
import type { Step } from '../step.ts';

const MOVE_LIMIT_MS = 300_000;

export const move: Step = {
  name: 'move',
  limitS: 600,
  async run(bed) {
    const [a, b] = bed.machines;
    const moved = await migrate(bed, a, b);
    const complete = await arrival(b);
    await bed.guest.progress();
    const { state } = await diskOf(a);
    return `a to b: ${moved}; ${complete}; a's is ${state}; the guest found every block right`;
  },
};

export const back: Step = {
  name: 'back',
  limitS: 900,
  async run(bed) {
    const [a, b] = bed.machines;
    const there = await migrate(bed, b, a);
    const complete = await arrival(a);
    await bed.guest.progress();
    return `b to a: ${there}; ${complete}`;
  },
};

/** Has libvirt move the guest, and waits until it works at its destination. @returns how long that took */
export async function migrate({ guest }: Bed, from: Machine, to: Machine): Promise<string> {
  await guest.progress();
  const begun = performance.now();
  await from.sh(`virsh migrate --live --persistent --undefinesource ${GUEST} qemu+tls://${to.host}/system`, {
    timeoutMs: MOVE_LIMIT_MS,
  });
  const seconds = (performance.now() - begun) / 1000;
  await guest.progress();
  return `virsh took ${seconds.toFixed(0)} s`;
}

/** Waits until every block is there. @returns how long that took, and what was moved */
async function arrival(machine: Machine): Promise<string> {
  const begun = performance.now();
  const status = await untilDiskIs(machine, 'serving', MOVE_LIMIT_MS);
  tell(await machine.sh(`xnbdctl status ${EXPORT}`));
  return `complete ${((performance.now() - begun) / 1000).toFixed(0)} s later, ${status.onDemandBytes + status.backgroundBytes} bytes fetched`;
}
