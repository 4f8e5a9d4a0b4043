/**
 * The crash checker's own process: it replaces node's functions before any of the product is loaded. Options
 * in, report out, as JSON.
 */
import type { CrashCheckOptions } from './check-crashes.ts';
import { install } from './files/recorder.ts';

await install();
const { checkCrashes } = await import('./check-crashes.ts');
const report = await checkCrashes(JSON.parse(process.argv[2]!) as CrashCheckOptions);
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit());
