/** Packages as `npm run package` makes them, compressed little. */
import { execFile } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export const top = join(import.meta.dirname, '../..');

export interface Wishes {
  /** Default: this clone. */
  from?: string;
  version?: string;
  /** deb, rpm; default both. */
  kinds?: readonly string[];
  env?: Readonly<Record<string, string>>;
}

/** @param out is emptied. @returns their paths. */
export async function buildPackages(
  out: string,
  { from = top, version, kinds = [], env }: Wishes = {},
): Promise<string[]> {
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  const args = [...kinds, '--arch', 'amd64', '--fast', '--out', out];
  const { stdout } = await run(
    process.execPath,
    [
      join(from, 'scripts/package/package.ts'),
      ...args,
      ...(version === undefined ? [] : ['--package-version', version]),
    ],
    { cwd: from, env: { ...process.env, ...env } },
  );
  return stdout
    .trim()
    .split('\n')
    .map((line) => line.slice(0, line.indexOf(': ')));
}
