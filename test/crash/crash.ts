/**
 * npm run crash -- [--minutes N] [--seed S]: what kill -9 and loss of power leave on disk, at as many moments
 * as there is time for. It ends with the first fault, and tells the whole story of that.
 */
import { parseArgs } from 'node:util';
import { runCrashCheck, summary } from './run-crash-check.ts';

const { minutes, seed } = readArguments();
const report = await runCrashCheck({ seed: seed ?? Date.now() % 2 ** 31, minutes: minutes ?? 1 });
if (report.fault !== null) console.log(report.fault.story);
console.log(summary(report));
process.exit(report.fault === null ? 0 : 1);

function readArguments(): { minutes: number | undefined; seed: number | undefined } {
  try {
    const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } });
    const number = (name: 'minutes' | 'seed'): number | undefined => {
      const text = values[name];
      if (text === undefined) return undefined;
      if (text === '' || !(Number(text) >= 0)) throw new Error(`--${name} ${text} is no number`);
      return Number(text);
    };
    return { minutes: number('minutes'), seed: number('seed') };
  } catch (error) {
    console.error(`crash: ${(error as Error).message}\nuse: npm run crash -- [--minutes N] [--seed S]`);
    process.exit(2);
  }
}
