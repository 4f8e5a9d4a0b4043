/** A guest with a plain file for its disk is defined, adopted, and started under libvirt's AppArmor profile. */
import { tell } from '../bed.ts';
import { diskOf } from '../disk.ts';
import { EXPORT, GUEST } from '../guest/guest.ts';
import type { Step } from '../step.ts';
import { denied } from './boot.ts';

export const adopt: Step = {
  name: 'adopt',
  limitS: 300,
  async run({ machines: [a], guest }) {
    await guest.define(a);
    tell(await a.sh(`xnbdctl adopt ${GUEST} --yes`));
    const { image, state } = await diskOf(a);
    return `${EXPORT} is ${state}, its image stays ${image}`;
  },
};

export const startGuest: Step = {
  name: 'start',
  limitS: 700,
  async run({ machines: [a, b], guest }) {
    for (const machine of [a, b]) await guest.follow(machine);
    await guest.boots(() => a.sh(`virsh -q start ${GUEST}`, { timeoutMs: 300_000 }));
    await guest.progress();
    const profile = await a.sh(`cat /proc/$(cat /run/libvirt/qemu/${GUEST}.pid)/attr/current`);
    if (!/^libvirt-\S+ \(enforce\)/.test(profile)) throw new Error(`QEMU's profile is ${profile}`);
    const refused = await denied(a);
    tell(refused.join('\n') || 'AppArmor has refused nothing');
    return `boots and writes; QEMU is ${profile}; AppArmor refused ${refused.length} requests`;
  },
};
