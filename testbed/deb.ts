/**
 * The package under trial, and the same as a later release. Compressed little, because emulation unpacks slowly.
 *
 * The later one is built from a copy of the clone that calls itself later: programs say their release, and what is older is known by it.
 */
import { globSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../test/lab/processes.ts';
import { TOP } from './bed.ts';

const LATER = '99.0.0';
/** Of the clone, what no package is built from. */
const LEFT = ['node_modules', 'dist', '.cache', '.git', 'test'];

/** @returns its path */
export function packageFile(dir: string): Promise<string> {
  return build(TOP, join(dir, 'package'));
}

/** @returns its path */
export async function laterPackageFile(dir: string): Promise<string> {
  const clone = join(dir, 'later');
  await rm(clone, { recursive: true, force: true });
  await mkdir(clone, { recursive: true });
  for (const name of await readdir(TOP))
    if (!LEFT.includes(name)) await cp(join(TOP, name), join(clone, name), { recursive: true });
  await symlink(join(TOP, 'node_modules'), join(clone, 'node_modules'));
  const about = JSON.parse(await readFile(join(TOP, 'package.json'), 'utf8')) as object;
  await writeFile(join(clone, 'package.json'), JSON.stringify({ ...about, version: LATER }));
  return build(clone, join(dir, 'later-package'));
}

async function build(clone: string, out: string): Promise<string> {
  const { stdout: epoch } = await run(['git', 'log', '-1', '--format=%ct'], { cwd: TOP });
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const program = join(clone, 'scripts/package/package.ts');
  await run([process.execPath, program, 'deb', '--arch', 'amd64', '--fast', '--out', out], {
    cwd: clone,
    timeoutMs: 300_000,
    env: { ...process.env, SOURCE_DATE_EPOCH: epoch.trim() },
  });
  const [deb] = globSync(join(out, '*.deb'));
  if (deb === undefined) throw new Error(`the package was not built into ${out}`);
  return deb;
}
