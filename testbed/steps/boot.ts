/** Two machines of stock Debian come up, joined by their link, with AppArmor enforcing what libvirt brings. */
import { onBoth, tell } from '../bed.ts';
import type { Machine } from '../machine/machine.ts';
import type { Step } from '../step.ts';

export const boot: Step = {
  name: 'boot',
  limitS: 900,
  async run(bed) {
    const { machines } = bed;
    const made = await bed.images();
    for (const [at, machine] of machines.entries()) await machine.renew(made[at]!);
    const seconds = await Promise.all(
      machines.map(async (machine) => {
        const begun = performance.now();
        await machine.boot();
        return Math.round((performance.now() - begun) / 1000);
      }),
    );
    const systems: string[] = [];
    for (const machine of machines) systems.push(await describe(machine));
    await machines[0].sh(`ping -c 2 -W 5 ${machines[1].host}`);
    return machines.map(({ name }, at) => `${name}: ${systems[at]}, up in ${seconds[at]} s`).join('; ');
  },
};

async function describe(machine: Machine): Promise<string> {
  const failed = await machine.sh('systemctl --failed --no-legend --plain');
  if (failed !== '') throw new Error(`${machine.name}: units that failed: ${failed}`);
  return machine.sh(
    '. /etc/os-release; echo "$PRETTY_NAME, $(uname -r), systemd $(systemctl --version | sed -n "1s/systemd \\([0-9]*\\).*/\\1/p"),' +
      ' libvirt $(virsh --version), QEMU $(qemu-system-x86_64 --version | sed -n "1s/.*version \\([0-9.]*\\).*/\\1/p")"',
  );
}

export const confined: Step = {
  name: 'confined',
  limitS: 120,
  onlyLooks: true,
  async run(bed) {
    const counts = await onBoth(bed, async (machine) => {
      // libvirtd may rest until it is asked.
      await machine.sh('virsh list');
      const status = await machine.sh('aa-status');
      tell(`${machine.name}: ${status.split('\n').slice(0, 3).join(', ')}`);
      const enforced =
        /processes are in enforce mode\.?\n([\s\S]*?)\n\s*\d+ processes/.exec(status)?.[1] ?? '';
      if (!enforced.includes('libvirtd'))
        throw new Error(`${machine.name}: libvirtd is not confined:\n${status}`);
      return `${machine.name}: ${enforced.trim().split('\n').length} processes enforced`;
    });
    return `libvirtd runs under AppArmor in enforce mode; ${counts.join(', ')}`;
  },
};

/** What AppArmor has refused since the machine booted, lines of the kernel. */
export async function denied(machine: Machine): Promise<string[]> {
  const lines = await machine.sh(`journalctl -k -b -o cat --no-pager | grep 'apparmor="DENIED"' || true`);
  return lines === '' ? [] : lines.split('\n');
}
