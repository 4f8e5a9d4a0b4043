/** Which programs of others this machine has: a test that needs one is skipped without it, and says so. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Also where administrators' programs are, although the PATH of a user may lack that. */
const PLACES = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];

/** @param program a name, or a path */
export function isInstalled(program: string): boolean {
  return (program.includes('/') ? [''] : PLACES).some((place) => {
    try {
      accessSync(join(place, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Whether all of them are there; the test's output says which is not. */
export function installed(...programs: string[]): boolean {
  const missing = programs.filter((program) => !isInstalled(program));
  for (const program of missing) console.log(`      (${program} is not installed)`);
  return missing.length === 0;
}
