/**
 * Bundles the five programs into dist/bin/ as runnable files.
 *
 * Each file is a shell script and a JavaScript module at once: `sh` runs the second line, which finds the
 * real place of the file (links followed) and hands it to the Node that belongs to it: the repository's own,
 * or the one that the package installed. For Node the same line is a string followed by a comment. Native
 * packages stay outside the bundle and are loaded from node_modules beside it.
 */
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

const top = join(import.meta.dirname, '..');
const programs = ['xnbdd', 'xnbd-export', 'xnbd-gateway', 'xnbdctl', 'xnbd-hook'];
const native = ['koffi', 'node-unix-socket', 'usocket', 'x11'];

/** Mapping stack traces costs 4 MB in each process: too much for one of many. */
const sourceMaps = (program: string) => (program === 'xnbd-export' ? '' : '--enable-source-maps ');
/**
 * These end when all is said, which Node does only after V8's threads, and one of them may be waiting for the
 * main thread (nodejs/node#54918).
 */
const oneThread = (program: string) =>
  program === 'xnbd-hook' || program === 'xnbdctl' ? '--single-threaded ' : '';
const launcher = (program: string) => `#!/bin/sh
":" //; me=$(readlink -f "$0"); for node in "\${me%/*}/../../node_modules/node/bin/node" "\${me%/*}/../libexec/node" node; do command -v "$node" >/dev/null && break; done; exec "$node" ${sourceMaps(program)}${oneThread(program)}"$me" "$@"
import { createRequire as xnbdCreateRequire } from 'node:module';
const require = xnbdCreateRequire(import.meta.url);`;

for (const program of programs) {
  const outfile = join(top, 'dist/bin', program);
  await build({
    entryPoints: [join(top, 'src/bin', `${program}.ts`)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    external: native,
    banner: { js: launcher(program) },
    sourcemap: 'linked',
    logLevel: 'warning',
  });
  await chmod(outfile, 0o755);
}
