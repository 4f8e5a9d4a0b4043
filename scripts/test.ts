/**
 * What `npm test` runs, in order: the build, lint and types, then every test, the end-to-end ones last. Each
 * step runs even if an earlier one failed, so that one run tells all. The last line counts the tests; a step
 * that is no test counts as one.
 *
 *     node scripts/test.ts            everything
 *     node scripts/test.ts unit       one group: unit, interop, e2e
 */
import { spawn } from 'node:child_process';
import { glob } from 'node:fs/promises';
import { join, sep } from 'node:path';

const top = join(import.meta.dirname, '..');
const bin = join(top, 'node_modules/.bin');
const total = { passed: 0, failed: 0, skipped: 0 };

const groups: Record<string, (path: string) => boolean> = {
  unit: (path) => !groups['interop']!(path) && !groups['e2e']!(path),
  interop: (path) => path.startsWith(`test${sep}interop${sep}`),
  e2e: (path) => path.startsWith(`test${sep}e2e${sep}`),
};

const wanted = process.argv.slice(2);
const unknown = wanted.find((name) => !(name in groups));
if (unknown !== undefined) {
  console.error(`no group '${unknown}': there are ${Object.keys(groups).join(', ')}`);
  process.exit(2);
}

const files: string[] = [];
for await (const path of glob('test/**/*.test.ts', { cwd: top })) files.push(path);
files.sort();

if (wanted.length === 0) {
  await step('build', 'node', ['scripts/build.ts']);
  await step('lint', 'biome', ['check', '--error-on-warnings', '.']);
  await step('lint', 'eslint', ['.']);
  await step('types', 'tsc', ['--noEmit']);
}
for (const [name, belongs] of Object.entries(groups)) {
  if (wanted.length === 0 || wanted.includes(name)) await tests(name, files.filter(belongs));
}
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;

async function step(name: string, program: string, args: string[]): Promise<void> {
  const { code, seconds } = await run(program, args);
  console.log(`${code === 0 ? 'ok' : 'FAILED'}  ${name}: ${program} ${args.join(' ')} (${seconds} s)`);
  if (code === 0) total.passed++;
  else total.failed++;
}

async function tests(name: string, paths: string[]): Promise<void> {
  if (paths.length === 0) return;
  console.log(`\n--- ${name}: ${paths.length} files`);
  const { code, output, seconds } = await run('mocha', paths);
  const count = (word: string) => Number(new RegExp(`^ *(\\d+) ${word}`, 'm').exec(output)?.[1] ?? 0);
  const failing = count('failing');
  total.passed += count('passing');
  total.skipped += count('pending');
  // A run that broke off has no count of failures.
  total.failed += code === 0 ? failing : Math.max(1, failing);
  console.log(`--- ${name}: ${code === 0 ? 'ok' : 'FAILED'} (${seconds} s)`);
}

function run(program: string, args: string[]): Promise<{ code: number; output: string; seconds: string }> {
  const began = performance.now();
  const child = spawn(join(bin, program), args, {
    cwd: top,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, PATH: `${bin}:${process.env['PATH']}` },
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    process.stdout.write(text);
  });
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      if (signal !== null) console.log(`${program} was ended by ${signal}`);
      resolve({ code: code ?? 1, output, seconds: ((performance.now() - began) / 1000).toFixed(0) });
    });
  });
}
