/**
 * What `npm test` runs: the build, lint and types, then every test, the cheapest first. Each step runs even if an
 * earlier one failed, so that one run tells all. The last line counts the tests; a step that is no test
 * counts as one.
 *
 *     node scripts/test.ts                            everything
 *     node scripts/test.ts fast process               groups
 *     node scripts/test.ts nbd export/session         folders below test/
 *     node scripts/test.ts test/store/exit.test.ts    a file
 */
import { spawn } from 'node:child_process';
import { glob } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * The tests by what they cost, the cheapest first: what each group holds below test/, and how many of its
 * files run side by side. Most tests wait for a clock or a process, so more of them than there are
 * processors is well; those that measure, or keep every processor busy by themselves, run one by one. What is
 * named first begins first: a file that takes long, begun last, would run on alone.
 */
const groups: readonly { name: string; jobs: number; holds: readonly string[] }[] = [
  {
    name: 'fast',
    jobs: 3,
    holds: ['nbd', 'store', 'log', 'config', 'pki', 'export', 'libvirt', 'client', 'testbed', 'tree.test.ts'],
  },
  {
    name: 'process',
    jobs: 3,
    holds: ['relocation', 'daemon', 'gateway', 'control', 'xnbdctl', 'hooks', 'systemd'],
  },
  { name: 'long', jobs: 1, holds: ['crash', 'chaos', 'demo', 'fuzz', 'lab'] },
  { name: 'packaging', jobs: 1, holds: ['packaging'] },
  { name: 'interop', jobs: 1, holds: ['interop'] },
  {
    name: 'e2e',
    jobs: 3,
    holds: ['e2e/daemon-at-each-step.test.ts', 'e2e/failed-before-takeover.test.ts', 'e2e'],
  },
];

const top = join(import.meta.dirname, '..');
const bin = join(top, 'node_modules/.bin');
const total = { passed: 0, failed: 0, skipped: 0 };
const times: string[] = [];

const files: string[] = [];
for await (const path of glob('**/*.test.ts', { cwd: join(top, 'test') })) files.push(path);
files.sort();
for (const path of files)
  if (groupOf(path) === undefined) refuse(`no group in scripts/test.ts holds test/${path}`);

const wanted = process.argv.slice(2).map((word) => word.replace(/^(\.\/)?test\/|\/$/g, ''));
const chosen = files.filter((path) => wanted.length === 0 || wanted.some((word) => names(word, path)));
const unknown = wanted.find((word) => !files.some((path) => names(word, path)));
if (unknown !== undefined)
  refuse(
    `no test is '${unknown}': name a folder or file below test/, or ${groups.map(({ name }) => name).join(', ')}`,
  );

await step('build', 'node', ['scripts/build.ts']);
if (wanted.length === 0) {
  await step('lint', 'biome', ['check', '--error-on-warnings', '.']);
  await step('lint', 'eslint', ['--cache', '--cache-location', '.cache/eslint', '.']);
  await step('types', 'tsc', ['--noEmit']);
}
for (const { name, jobs, holds } of groups) {
  const held = holds.flatMap((each) => chosen.filter((path) => isIn(each, path)));
  await tests(name, jobs, [...new Set(held)]);
}
console.log(`\n${times.join(', ')}`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;

function groupOf(path: string): string | undefined {
  return groups.find(({ holds }) => holds.some((name) => isIn(name, path)))?.name;
}

function names(word: string, path: string): boolean {
  return isIn(word, path) || word === groupOf(path);
}

function isIn(name: string, path: string): boolean {
  return path === name || path.startsWith(`${name}/`);
}

function refuse(why: string): never {
  console.error(why);
  process.exit(2);
}

async function step(name: string, program: string, args: string[]): Promise<void> {
  const { code, seconds } = await run(program, args);
  console.log(`${code === 0 ? 'ok' : 'FAILED'}  ${name}: ${program} ${args.join(' ')} (${seconds} s)`);
  if (code === 0) total.passed++;
  else total.failed++;
}

async function tests(name: string, jobs: number, paths: string[]): Promise<void> {
  if (paths.length === 0) return;
  console.log(`\n--- ${name}: ${paths.length} files, ${jobs} at a time`);
  const parallel = jobs > 1 && paths.length > 1 ? ['--parallel', '--jobs', String(jobs)] : [];
  const { code, output, seconds } = await run('mocha', [
    ...parallel,
    ...paths.map((path) => join('test', path)),
  ]);
  const count = (word: string) => Number(new RegExp(`^ *(\\d+) ${word}`, 'm').exec(output)?.[1] ?? 0);
  const failing = count('failing');
  total.passed += count('passing');
  total.skipped += count('pending');
  // A run that broke off has no count of failures.
  total.failed += code === 0 ? failing : Math.max(1, failing);
  console.log(`--- ${name}: ${code === 0 ? 'ok' : 'FAILED'} (${seconds} s)`);
  times.push(`${name} ${seconds} s`);
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
