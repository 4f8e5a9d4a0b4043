/** The steps of a run: each has a name, a time limit, and tells in one line what was seen. */
import Table from 'cli-table3';
import type { Bed } from './bed.ts';

export interface Step {
  /** One word, for --only. */
  name: string;
  limitS: number;
  /** It changes nothing, so that what comes after it can be tried though it has failed. */
  onlyLooks?: true;
  /** @returns what was seen. @throws Error when that is not what it should be */
  run(bed: Bed): Promise<string>;
}

interface Outcome {
  name: string;
  seconds: number;
  seen: string;
  held: boolean;
}

/**
 * Runs steps in order and prints the table of them. One that fails is the last, but for those that only look.
 * @returns whether all held
 */
export async function runSteps(steps: readonly Step[], bed: Bed): Promise<boolean> {
  const outcomes: Outcome[] = [];
  for (const step of steps) {
    process.stdout.write(`\n== ${step.name}\n`);
    const outcome = await runStep(step, bed);
    outcomes.push(outcome);
    process.stdout.write(
      `${outcome.held ? '' : 'FAILED: '}${outcome.seen} (${outcome.seconds.toFixed(0)} s)\n`,
    );
    if (!outcome.held) {
      for (const machine of bed.machines) process.stdout.write(`${await machine.lastWords()}\n`);
      if (step.onlyLooks !== true) break;
    }
  }
  process.stdout.write(`\n${table(outcomes, steps.slice(outcomes.length))}\n`);
  return outcomes.length === steps.length && outcomes.every(({ held }) => held);
}

async function runStep(step: Step, bed: Bed): Promise<Outcome> {
  const { name, limitS } = step;
  const begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1000;
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`not done after ${limitS} s`)), limitS * 1000);
  try {
    const seen = await Promise.race([step.run(bed), late.promise]);
    return { name, seconds: seconds(), seen, held: true };
  } catch (error) {
    return { name, seconds: seconds(), seen: (error as Error).message, held: false };
  } finally {
    clearTimeout(timer);
  }
}

function table(outcomes: readonly Outcome[], left: readonly Step[]): string {
  const rows = new Table({
    head: ['step', 'seconds', 'what was seen'],
    colWidths: [14, 9, 85],
    wordWrap: true,
    style: { head: [], border: [] },
  });
  for (const { name, seconds, seen, held } of outcomes)
    rows.push([name, seconds.toFixed(0), held ? seen : `FAILED: ${seen.split('\n').slice(0, 6).join('\n')}`]);
  for (const { name } of left) rows.push([name, '', 'not run']);
  return rows.toString();
}
