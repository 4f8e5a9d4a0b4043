/**
 * `xnbdctl`: the command line of an administrator. It asks the exports themselves, so it works while the
 * daemon is down.
 */
import { runXnbdctl } from '../xnbdctl/program.ts';

process.exitCode = await runXnbdctl(process.argv);
