import { readFile } from 'node:fs/promises';

/** The kernel's name for the time since it started: what was in the page cache then is there still. */
export async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}
