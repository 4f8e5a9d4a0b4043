/**
 * The programs as an installed host has them: a module each below /usr/lib/xnbd, with the Node and the native
 * packages that it loads, and a script in /usr/bin that starts it. A script and not a link, because AppArmor
 * counts the path where a link leads to, and lets libvirtd run what lies in /usr/bin.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import packageJson from '../../package.json' with { type: 'json' };
import { bundle, programs } from '../build.ts';
import type { HostFile } from './host-file.ts';

export const LIB = '/usr/lib/xnbd';

/** @param work where modules are made. @returns files, and directories of the npm packages that went into them. */
export async function programFiles(work: string): Promise<{ files: HostFile[]; bundled: string[] }> {
  const bundled = new Set<string>();
  const files: HostFile[] = [
    // Node takes modules without an extension for ES modules by this.
    {
      to: `${LIB}/package.json`,
      mode: 0o644,
      from: { text: `${JSON.stringify({ version: packageJson.version, type: 'module' })}\n` },
    },
  ];
  for (const program of programs) {
    const module = join(work, program.name);
    const { inputs } = await bundle(program, module, { sourcemap: false });
    for (const path of Object.keys(inputs)) {
      const [, name] = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path) ?? [];
      if (name !== undefined) bundled.add(name);
    }
    files.push(
      { to: `${LIB}/bin/${program.name}`, mode: 0o644, from: { text: await readFile(module) } },
      { to: `/usr/bin/${program.name}`, mode: 0o755, from: { text: startScript(program) } },
    );
  }
  return { files, bundled: [...bundled].sort() };
}

/** There are no source maps on a host, so nothing has to look for them. */
function startScript({ name, nodeOptions }: (typeof programs)[number]): string {
  const options = nodeOptions.filter((option) => option !== '--enable-source-maps');
  return `#!/bin/sh\nexec ${[`${LIB}/node`, ...options, `${LIB}/bin/${name}`].join(' ')} "$@"\n`;
}
