/** The package goes on as an administrator puts it on: `apt install ./FILE`, with no other source of packages. */
import { basename } from 'node:path';
import { onBoth, tell } from '../bed.ts';
import { packageFile } from '../deb.ts';
import { putOn } from '../machine/apt.ts';
import type { Step } from '../step.ts';

export const install: Step = {
  name: 'install',
  limitS: 600,
  async run(bed) {
    const deb = await packageFile(bed.dir);
    const seconds = await onBoth(bed, async (machine) => {
      await machine.put('/root', deb);
      const begun = performance.now();
      const said = await putOn(machine, deb);
      tell(said.split('\n').slice(-14).join('\n'));
      // What the package says is to be run once.
      const [toRun] = /^.* {2}(systemctl restart .*)$/m.exec(said)?.slice(1) ?? [];
      if (toRun !== undefined) await machine.sh(toRun);
      return Math.round((performance.now() - begun) / 1000);
    });
    await onBoth(bed, async (machine) => {
      for (const unit of ['xnbdd', 'xnbd-gateway'])
        await machine.sh(
          `systemctl is-active --quiet ${unit} || { systemctl status ${unit} --no-pager; exit 1; }`,
        );
      tell(`${machine.name}: ${await machine.sh('xnbdctl --version && xnbdctl list')}`);
    });
    return `${basename(deb)}: apt took ${seconds.join(' and ')} s; xnbdd and xnbd-gateway are active`;
  },
};
