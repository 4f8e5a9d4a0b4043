import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Whether a program is there; says so in the test's output where it is not. */
export async function installed(program: string): Promise<boolean> {
  return run(program, [program === 'openssl' ? 'version' : '--version']).then(
    () => true,
    () => {
      console.log(`      (${program} is not installed)`);
      return false;
    },
  );
}
