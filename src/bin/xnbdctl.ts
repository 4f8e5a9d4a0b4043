/**
 * `xnbdctl`: the command line of an administrator. It asks the exports themselves, so it works while the
 * daemon is down.
 */
import { nameProcess } from '../system/process-name.ts';
import { runXnbdctl } from '../xnbdctl/program.ts';

nameProcess('xnbdctl');
process.exitCode = await runXnbdctl(process.argv);
