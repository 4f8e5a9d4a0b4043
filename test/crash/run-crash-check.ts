/**
 * The crash checker, in a process of its own (it replaces functions of node): for `npm test` and `npm run
 * crash`.
 *
 * A seed brings the same disks and the same intentions again; how the calls of threads and timers fall in
 * between is new each time. So the report of a fault tells the whole story.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { CrashCheckOptions, CrashReport } from './check-crashes.ts';
import type { PlantedFault } from './lives/planted-faults.ts';

export type { CrashReport, PlantedFault };

/**
 * A state is megabytes of buffers that are garbage a moment later. Collected young and often they cost
 * nothing; as V8 has it by default, a whole collection every four states took a third of the time. (Its
 * threads would wait for a processor longer than they work.)
 */
const ABOUT_GARBAGE = [
  '--single-threaded-gc',
  '--max-semi-space-size=1',
  '--initial-heap-size=512',
  '--no-incremental-marking',
];

/**
 * Ends with the first fault, or after so many states, or so many minutes; without either, after 1000 states.
 * @throws Error when the checker itself fails.
 */
export async function runCrashCheck(
  options: Partial<CrashCheckOptions> & { seed: number },
): Promise<CrashReport> {
  const { minutes = Number.MAX_SAFE_INTEGER, planted = null } = options;
  const states = options.states ?? (options.minutes === undefined ? 1000 : Number.MAX_SAFE_INTEGER);
  const wanted: CrashCheckOptions = { seed: options.seed, states, minutes, planted };
  const args = [...ABOUT_GARBAGE, join(import.meta.dirname, 'worker.ts'), JSON.stringify(wanted)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  const [out, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const code = await ended;
  if (code !== 0) throw new Error(`the crash checker ended with ${code}, seed ${options.seed}:\n${errors}`);
  return JSON.parse(out) as CrashReport;
}

/** For whoever prints a report. */
export function summary({ seed, lives, states, powerStates, seconds, fault }: CrashReport): string {
  const counted = `${states} states (${powerStates} after a loss of power) of ${lives} lives in ${seconds.toFixed(0)} s, seed ${seed}`;
  return fault === null ? `${counted}: no fault` : `${counted}: ${fault.line}`;
}
