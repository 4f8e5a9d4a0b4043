/** The package goes: not from under a guest, then without one, and a purge leaves every image. */
import { type Bed, tell } from '../bed.ts';
import { diskOf } from '../disk.ts';
import { EXPORT, GUEST } from '../guest/guest.ts';
import { APT } from '../machine/apt.ts';
import type { Step } from '../step.ts';

export const remove: Step = {
  name: 'remove',
  limitS: 600,
  async run(bed) {
    const { machines, guest } = bed;
    const machine = await guest.where();
    const { image } = await diskOf(machine);
    const refusal = await refused(bed);
    const written = await guest.stop();
    await machine.sh(`virsh -q destroy ${GUEST}`);
    tell(await machine.sh(`xnbdctl release ${GUEST} --yes`));
    for (const each of machines) {
      tell(await each.sh(`${APT} remove xnbd-libvirt 2>&1`, { timeoutMs: 300_000 }));
      await each.sh(`${APT} purge xnbd-libvirt 2>&1`, { timeoutMs: 300_000 });
      const left = await each.sh(
        'ls -d /etc/xnbd/xnbd.conf /usr/bin/xnbd* /usr/lib/xnbd /etc/libvirt/hooks/*.d/xnbd 2>/dev/null; ' +
          'systemctl list-unit-files --no-legend "xnbd*"; systemctl list-units --no-legend --all "xnbd*"',
        { check: false },
      );
      if (left.trim() !== '') throw new Error(`${each.name}: a purge leaves ${left}`);
    }
    await guest.compare(machine, image, written);
    return `in use: ${refusal}; then removed and purged; ${image} is kept, and holds what the guest wrote`;
  },
};

/** @returns how a removal under the guest was refused */
async function refused({ guest }: Bed): Promise<string> {
  const machine = await guest.where();
  const said = await machine.sh(`${APT} remove xnbd-libvirt 2>&1; echo "exit code $?"`, {
    timeoutMs: 300_000,
  });
  tell(said);
  await guest.progress();
  if (said.includes('exit code 0')) throw new Error(`the package went from under ${EXPORT}`);
  if (!said.includes(EXPORT)) throw new Error(`the refusal does not name ${EXPORT}`);
  await machine.sh('systemctl is-active xnbdd && dpkg -s xnbd-libvirt | grep -q "^Status: .* installed"');
  return `refused, with the name ${EXPORT}`;
}
