/** The package on a machine, by apt, as an administrator puts it on and takes it off. */
import { basename } from 'node:path';
import type { Machine } from './machine.ts';

export const APT = 'DEBIAN_FRONTEND=noninteractive apt-get -q -y';

/** Puts a package on that lies in /root. @returns what apt said, without its counting */
export async function putOn(machine: Machine, deb: string): Promise<string> {
  const said = await machine.sh(`cd /root && ${APT} install ./${basename(deb)} 2>&1`, {
    timeoutMs: 400_000,
  });
  return said.replaceAll(/\(Reading database[^\n]*\r/g, '');
}
