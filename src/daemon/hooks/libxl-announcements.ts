/**
 * Arrivals that libvirt announced without the domain's XML: libxl's `migrate` brings none (libvirt 9.0), so
 * its hook script only leaves an empty file `announced/libxl.GUEST` in the run directory. A `prepare` of that
 * guest soon after is an arrival, not a start.
 */
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../../config/config.ts';
import type { HookCall } from './server.ts';

function directory(config: Config): string {
  return join(config.paths.run, 'announced');
}

/** Makes the directory, without which the hook script leaves no file. */
export async function openAnnouncements(config: Config): Promise<void> {
  await mkdir(directory(config), { recursive: true, mode: 0o700 });
}

/** Was the guest of this call announced lately? Answers so once. */
export async function takeAnnouncement(config: Config, call: HookCall): Promise<boolean> {
  if (call.guest.includes('/') || call.guest.includes('\0')) return false;
  const path = join(directory(config), `${call.driver}.${call.guest}`);
  const fresh = await isFresh(config, path);
  await rm(path, { force: true });
  return fresh;
}

/** Deletes the files of guests that are none of ours, or that never came. */
export async function sweepAnnouncements(config: Config): Promise<void> {
  for (const file of await readdir(directory(config))) {
    const path = join(directory(config), file);
    if (!(await isFresh(config, path))) await rm(path, { force: true });
  }
}

async function isFresh(config: Config, path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && Date.now() - found.mtimeMs < config.relocation['prepare-timeout'] * 1000;
}
