/**
 * What a story may leave on its hosts: the disk where it is now, old copies where they are to be kept, and
 * logs. Nothing that runs.
 */
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { processesOf } from '../../lab/processes.ts';
import type { ChaosHost } from '../moving/host.ts';
import type { Stay } from '../moving/stay.ts';
import type { Plan } from '../plan.ts';

/**
 * @param unheard the last host has yet to let go of its origin. @throws Error that names what is there and
 * should not be.
 */
export async function checkLeftovers(
  plan: Plan,
  hosts: readonly ChaosHost[],
  stays: readonly Stay[],
  dir: string,
  unheard: boolean,
): Promise<void> {
  const wrong: string[] = [];
  for (const [pid, line] of await processesOf(dir)) wrong.push(`process ${pid}: ${line}`);
  for (const host of hosts) {
    const here = stays.filter((stay) => stay.host === host);
    const kept = plan.driver === 'daemon' && plan.retired === 'keep' ? here.length : 0;
    const disks = stays.at(-1)?.host === host ? Math.max(1, kept) : kept;
    const images = await readdir(host.images);
    const exports = await readdir(host.exports);
    if (images.length !== disks || exports.length !== disks)
      wrong.push(
        `${host.name}: ${disks} disks expected, images ${images.join(' ')}; exports ${exports.join(' ')}`,
      );
    for (const name of exports) {
      const state = await readdir(join(host.exports, name));
      const strange = state.filter((file) => !['export.json', 'lock'].includes(file));
      if (strange.length > 0 && !(unheard && stays.at(-1)?.host === host))
        wrong.push(`${host.name}: exports/${name} has ${strange.join(' ')}`);
    }
    const run = (await readdir(host.run)).filter(
      (name) => !/^(announced|arriving|domains|missed|paths|hook\.sock|.*\.log)$/.test(name),
    );
    if (run.length > 0) wrong.push(`${host.name}: run has ${run.join(' ')}`);
    const relocations = await readdir(join(dirname(host.exports), 'relocations')).catch(() => []);
    if (relocations.length > 1) wrong.push(`${host.name}: relocations has ${relocations.join(' ')}`);
  }
  if (wrong.length > 0) throw new Error(`left behind:\n    ${wrong.join('\n    ')}`);
}
