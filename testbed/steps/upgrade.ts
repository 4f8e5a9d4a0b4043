/** A later version of the package goes on under a guest that writes: its disk's process stays, and so does the guest. */
import { basename } from 'node:path';
import { onBoth, tell } from '../bed.ts';
import { laterPackageFile } from '../deb.ts';
import { servingPid } from '../disk.ts';
import { EXPORT } from '../guest/guest.ts';
import { putOn } from '../machine/apt.ts';
import type { Step } from '../step.ts';

export const upgrade: Step = {
  name: 'upgrade',
  limitS: 900,
  async run(bed) {
    const { guest } = bed;
    const deb = await laterPackageFile(bed.dir);
    const machine = await guest.where();
    await guest.progress();
    const pid = await servingPid(machine);
    guest.slowestMs = 0;
    await onBoth(bed, async (each) => {
      await each.put('/root', deb);
      const said = await putOn(each, deb);
      tell(said.split('\n').slice(-8).join('\n'));
      await each.sh('systemctl is-active xnbdd xnbd-gateway');
    });
    await guest.progress();
    const pauseMs = guest.slowestMs;
    const after = await servingPid(machine);
    if (after !== pid) throw new Error(`${EXPORT} is served by process ${after}, no longer by ${pid}`);
    if ((await guest.where()) !== machine) throw new Error('the guest is elsewhere');
    const older = await machine.sh('xnbdctl upgrade');
    tell(older);
    if (!older.includes(EXPORT))
      throw new Error(`xnbdctl upgrade does not know that older code serves ${EXPORT}`);
    guest.slowestMs = 0;
    tell(await machine.sh('xnbdctl upgrade --all'));
    await guest.progress();
    if ((await servingPid(machine)) === pid) throw new Error(`process ${pid} serves ${EXPORT} still`);
    return (
      `${basename(deb)} went on while process ${pid} served ${EXPORT}: the guest's longest request took ${pauseMs} ms; ` +
      `xnbdctl upgrade --all: a new process serves it, ${guest.slowestMs} ms`
    );
  },
};
