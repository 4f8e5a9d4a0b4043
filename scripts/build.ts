/**
 * Bundles the five programs into dist/bin/ as runnable files.
 *
 * Each file is a shell script and a JavaScript module at once: `sh` runs the second line, which finds the
 * real place of the file (links followed) and hands it to the repository's own Node. For Node the same line is a
 * string followed by a comment. Native packages stay outside the bundle and are loaded from node_modules. What is
 * installed on hosts has its scripts and modules apart (scripts/package/programs.ts).
 */
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { build, type Metafile } from 'esbuild';

const top = join(import.meta.dirname, '..');
const native = ['koffi', 'node-unix-socket', 'usocket', 'x11'];

export interface Program {
  readonly name: string;
  /** Options that Node is started with. */
  readonly nodeOptions: readonly string[];
}

/** Mapping stack traces costs 4 MB in each process: too much for one of many. */
const mapped = ['--enable-source-maps'];
/**
 * These end when all is said, which Node does only after V8's threads, and one of them may be waiting for the
 * main thread (nodejs/node#54918).
 */
const oneThread = ['--single-threaded'];

export const programs: readonly Program[] = [
  { name: 'xnbdd', nodeOptions: mapped },
  { name: 'xnbd-export', nodeOptions: [] },
  { name: 'xnbd-gateway', nodeOptions: mapped },
  { name: 'xnbdctl', nodeOptions: [...mapped, ...oneThread] },
  { name: 'xnbd-hook', nodeOptions: [...mapped, ...oneThread] },
];

/** For CommonJS modules inside an ES module. */
const requires = `import { createRequire as xnbdCreateRequire } from 'node:module';
const require = xnbdCreateRequire(import.meta.url);`;

/** @param head lines before all code. @returns what went in. */
export async function bundle(
  { name }: Program,
  outfile: string,
  { head = '', sourcemap }: { head?: string; sourcemap: boolean },
): Promise<Metafile> {
  const { metafile } = await build({
    absWorkingDir: top,
    entryPoints: [`src/bin/${name}.ts`],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    external: native,
    banner: { js: `${head}${requires}` },
    sourcemap: sourcemap && 'linked',
    metafile: true,
    logLevel: 'warning',
  });
  return metafile;
}

function launcher({ nodeOptions }: Program): string {
  return `#!/bin/sh
":" //; me=$(readlink -f "$0"); node="\${me%/*}/../../node_modules/node/bin/node"; exec "$node" ${[...nodeOptions, '"$me"'].join(' ')} "$@"
`;
}

if (import.meta.main) {
  for (const program of programs) {
    const outfile = join(top, 'dist/bin', program.name);
    await bundle(program, outfile, { head: launcher(program), sourcemap: true });
    await chmod(outfile, 0o755);
  }
}
