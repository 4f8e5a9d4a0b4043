/** Programs of others as clients of an export: run to their end, and the test is skipped where one is missing. */
import { installed } from '../lab/installed.ts';
import { run as runProgram } from '../lab/processes.ts';

/** @returns stdout. @throws Error when it fails, or takes two minutes */
export async function run(...argv: string[]): Promise<string> {
  return (await runProgram(argv, { timeoutMs: 120_000 })).stdout;
}

/** Skips a test, by name and with the reason, where a program is missing. */
export function needs(context: Mocha.Context, ...programs: string[]): void {
  if (!installed(...programs)) context.skip();
}
