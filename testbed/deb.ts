/** The package under trial, and the same commit as a later version. Compressed little, because emulation unpacks slowly. */
import { globSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import packageJson from '../package.json' with { type: 'json' };
import { run } from '../test/lab/processes.ts';
import { TOP } from './bed.ts';

/** @returns its path */
export function packageFile(dir: string): Promise<string> {
  return build(dir, packageJson.version);
}

/** @returns its path */
export function laterPackageFile(dir: string): Promise<string> {
  return build(dir, `${packageJson.version}+later`);
}

async function build(dir: string, version: string): Promise<string> {
  const out = join(dir, 'package', version);
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const options = ['--arch', 'amd64', '--fast', '--out', out, '--package-version', version];
  await run([process.execPath, join(TOP, 'scripts/package/package.ts'), 'deb', ...options], {
    cwd: TOP,
    timeoutMs: 300_000,
    env: process.env,
  });
  const [deb] = globSync(join(out, '*.deb'));
  if (deb === undefined) throw new Error(`the package was not built into ${out}`);
  return deb;
}
