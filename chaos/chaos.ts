/**
 * npm run chaos -- [--minutes N] [--relocations N] [--seed S] [--crash] [--verbose] [--keep]: a guest's disk goes from host to host while exports,
 * daemons and gateways are killed and links are cut, and not one byte may be wrong.
 *
 * Everything follows from numbers: story after story from --seed on (default: the time). One that fails is told with its number, its plan
 * and what happened when; `--seed NUMBER` alone plays that story again.
 *
 * With `--crash` it is not killed processes but loss of power: the crash checker (test/crash) for so many minutes.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runCrashCheck, summary } from '../test/crash/run-crash-check.ts';
import { runChaos } from './run.ts';

const USAGE =
  'use: npm run chaos -- [--minutes N] [--relocations N] [--seed S] [--crash] [--verbose] [--keep]';

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        minutes: { type: 'string' },
        relocations: { type: 'string' },
        seed: { type: 'string' },
        crash: { type: 'boolean', default: false },
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
    const { crash, verbose, keep } = values;
    return {
      minutes: number('minutes'),
      relocations: number('relocations'),
      seed: number('seed'),
      crash,
      verbose,
      keep,
    };
  } catch (error) {
    console.error(`chaos: ${(error as Error).message}\n${USAGE}`);
    process.exit(2);
  }
}

const { minutes, relocations, seed, crash, verbose, keep } = readArguments();
if (crash) {
  const report = await runCrashCheck({ seed: seed ?? Date.now() % 2 ** 32, minutes: minutes ?? 1 });
  console.log(summary(report));
  if (report.fault !== null) console.log(report.fault.story);
  process.exit(report.fault === null ? 0 : 1);
}
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
