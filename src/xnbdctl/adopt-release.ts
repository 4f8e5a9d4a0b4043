/** `xnbdctl adopt` and `release`: shows what would change in a domain's definition, asks, and changes it. */
import { createInterface } from 'node:readline/promises';
import type { Config } from '../config/config.ts';
import {
  applyAdopt,
  applyRelease,
  type DefinitionPlan,
  keepsReconnect,
  planAdopt,
  planRelease,
} from '../libvirt/adopt.ts';
import { openShutOffDomain } from '../libvirt/shut-off-domain.ts';
import { formatBytes } from '../log/numbers.ts';

const changes = {
  adopt: { plan: planAdopt, apply: applyAdopt, become: 'xNBD disks' },
  release: { plan: planRelease, apply: applyRelease, become: 'plain disks again' },
};

export interface Terminal {
  input: NodeJS.ReadStream;
  output: NodeJS.WriteStream;
}

/**
 * @param yes change it without asking.
 * @param baseName of `adopt`: what the exports are named by, in place of the domain's name.
 * @throws Error when the domain is not shut off, a disk cannot be changed, or nobody can be asked.
 */
export async function changeDefinition(
  change: keyof typeof changes,
  name: string,
  yes: boolean,
  config: Config,
  baseName: string | undefined,
  { input, output }: Terminal,
): Promise<void> {
  const { plan: makePlan, apply, become } = changes[change];
  const domain = await openShutOffDomain(config.libvirt.dbus, name);
  try {
    const plan = await makePlan(domain.xml, config.paths, baseName);
    output.write(describe(plan));
    if (plan.disks.length === 0) return;
    if (!yes && !(await isConfirmed(`Change domain ${name}?`, { input, output }))) {
      output.write('nothing was changed\n');
      return;
    }
    await apply(domain, plan, config.paths);
    output.write(`the disks of ${name} are ${become}: ${plan.disks.map((disk) => disk.export).join(', ')}\n`);
    if (change === 'adopt' && !keepsReconnect(await domain.read(), plan))
      output.write(
        'this libvirt does not keep <reconnect>: if an export dies, its guest is stopped until xnbdd resumes it\n',
      );
  } finally {
    domain.close();
  }
}

function describe({ domain, disks, skipped, diff }: DefinitionPlan): string {
  const lines = [
    ...disks.map(
      (disk) => `${disk.target}: export ${disk.export}, image ${disk.image} (${formatBytes(disk.sizeBytes)})`,
    ),
    ...skipped.map((line) => `${line}: stays as it is`),
  ];
  if (disks.length === 0) lines.push(`nothing to change in domain ${domain}`);
  return `${lines.join('\n')}\n${diff}`;
}

async function isConfirmed(question: string, { input, output }: Terminal): Promise<boolean> {
  if (!input.isTTY)
    throw new Error('the change cannot be confirmed, because stdin is no terminal: add --yes to make it');
  const lines = createInterface({ input, output });
  try {
    return /^y(es)?$/i.test((await lines.question(`${question} [y/N] `)).trim());
  } finally {
    lines.close();
  }
}
