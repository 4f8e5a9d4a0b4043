/**
 * npm run chaos -- [--minutes N] [--relocations N] [--seed S] [--verbose] [--keep]: a guest's disk goes from
 * host to host while exports, daemons and gateways are killed and links are cut, and not one byte may be wrong.
 *
 * Everything follows from numbers: story after story from --seed on (default: the time). One that fails is
 * told with its number, its plan and what happened when; `--seed NUMBER` alone plays that story again.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runChaos } from './run.ts';

const USAGE = 'use: npm run chaos -- [--minutes N] [--relocations N] [--seed S] [--verbose] [--keep]';

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        minutes: { type: 'string' },
        relocations: { type: 'string' },
        seed: { type: 'string' },
        verbose: { type: 'boolean', default: false },
        keep: { type: 'boolean', default: false },
      },
    });
    const number = (name: 'minutes' | 'relocations' | 'seed'): number | undefined => {
      const text = values[name];
      if (text === undefined) return undefined;
      if (text === '' || !(Number(text) >= 0)) throw new Error(`--${name} ${text} is no number`);
      return Number(text);
    };
    const { verbose, keep } = values;
    return {
      minutes: number('minutes'),
      relocations: number('relocations'),
      seed: number('seed'),
      verbose,
      keep,
    };
  } catch (error) {
    console.error(`chaos: ${(error as Error).message}\n${USAGE}`);
    process.exit(2);
  }
}

const { minutes, relocations, seed, verbose, keep } = readArguments();
const alone = seed !== undefined && minutes === undefined && relocations === undefined;
const dir = await mkdtemp(join(tmpdir(), 'xc-'));
const result = await runChaos({
  dir,
  seed: seed ?? Date.now() % 2 ** 32,
  minutes: minutes ?? (relocations === undefined && !alone ? 1 : Number.POSITIVE_INFINITY),
  relocations: relocations ?? (alone ? 1 : Number.POSITIVE_INFINITY),
  verbose,
});
if (keep) console.log(`kept: ${dir}`);
else await rm(dir, { recursive: true, force: true });
process.exit(result.failures === 0 ? 0 : 1);
