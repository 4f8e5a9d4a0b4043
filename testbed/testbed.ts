/**
 * The product on a stranger's machines: two of stock Debian under QEMU, from `apt install` to `apt purge`.
 *
 *     npm run testbed [-- --debian 12|13|mixed] [--keep] [--only STEP...] [--dir DIR]
 *     npm run testbed -- ssh a|b [COMMAND]      looks inside machines that were kept
 *     npm run testbed -- down                   ends them
 *
 * Without --only the machines are new. With it, the steps named are run on machines that were kept, in the order in
 * which they are named. The exit status is 0 only if all held.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Bed } from './bed.ts';
import { Guest } from './guest/guest.ts';
import { machineImage, type Release, sshKey } from './machine/image.ts';
import { Machine } from './machine/machine.ts';
import { runSteps, type Step } from './step.ts';
import { steps } from './steps/all.ts';

const releases: Readonly<Record<string, readonly [Release, Release]>> = {
  '12': ['12', '12'],
  '13': ['13', '13'],
  mixed: ['12', '13'],
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    debian: { type: 'string', default: '12' },
    dir: { type: 'string', default: join(homedir(), '.cache/xnbd-testbed') },
    keep: { type: 'boolean', default: false },
    only: { type: 'boolean', default: false },
  },
});

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`testbed: ${(error as Error).message}\n`);
  return 2;
});

async function main(): Promise<number> {
  const pair = releases[values.debian];
  if (pair === undefined) throw new Error(`--debian ${values.debian}: it is 12, 13 or mixed`);
  if (process.getuid?.() !== 0)
    throw new Error('it takes root: the files of a root file system keep their owners');
  const dir = resolve(values.dir);
  const run = join(dir, 'run');
  await mkdir(run, { recursive: true });
  const key = await sshKey(dir);
  const machines = [new Machine('a', run, key), new Machine('b', run, key)] as const;
  const up = [];
  for (const machine of machines) if (await machine.find()) up.push(machine);
  const [verb, ...words] = positionals;
  if (verb === 'down') return down(up);
  if (verb === 'ssh') return look(up, words);
  const chosen = values.only ? positionals.map(stepNamed) : steps;
  if (!values.only && up.length > 0) throw new Error('machines are up: npm run testbed -- down');
  if (values.only && up.length < 2 && chosen[0]?.name !== 'boot')
    throw new Error('two machines have to be up for --only: run with --keep first');
  // One after the other, because both may be the same.
  const images = async () => [await machineImage(pair[0], dir), await machineImage(pair[1], dir)] as const;
  return tellAll(chosen, machines, run, images);
}

async function tellAll(
  chosen: readonly Step[],
  machines: Bed['machines'],
  dir: string,
  images: Bed['images'],
): Promise<number> {
  const guest = new Guest(machines, dir, chosen[0]?.name === 'boot');
  const end = async (): Promise<void> => {
    await guest.close();
    if (!values.keep) for (const machine of machines) await machine.end();
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => void end().finally(() => process.exit(1)));
  try {
    if (values.only) for (const machine of machines) if (await machine.find()) await guest.follow(machine);
    return (await runSteps(chosen, { machines, guest, dir, images })) ? 0 : 1;
  } finally {
    await end();
  }
}

function stepNamed(name: string): Step {
  const found = steps.find((step) => step.name === name);
  if (found === undefined)
    throw new Error(`no step ${name}: there are ${steps.map((each) => each.name).join(', ')}`);
  return found;
}

async function down(up: readonly Machine[]): Promise<number> {
  for (const machine of up) await machine.end();
  process.stdout.write(`ended: ${up.map(({ name }) => name).join(', ') || 'none was up'}\n`);
  return 0;
}

async function look(up: readonly Machine[], [name, ...command]: string[]): Promise<number> {
  const machine = up.find((each) => each.name === name);
  if (machine === undefined) throw new Error(`machine ${name} is not up`);
  const [program, ...words] = machine.remote(command.join(' '));
  const child = spawn(program!, command.length > 0 ? words : words.slice(0, -1), { stdio: 'inherit' });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}
