/** Which exports a host has: what lies in its run directory and beside its records. */
import { readdir } from 'node:fs/promises';
import type { HostPaths } from '../../config/export-paths.ts';
import { isExportName } from './record.ts';

/**
 * Names that have a control socket or a record here, in order. @throws Error when a directory cannot be read.
 */
export async function exportNames({ run, exports }: HostPaths): Promise<string[]> {
  const found = [...(await namesWith('.ctl', run)), ...(await namesWith('', exports))];
  return [...new Set(found)].sort();
}

/** Export names in front of a suffix in a directory. @throws Error when the directory cannot be read. */
export async function namesWith(suffix: '.ctl' | '.sock' | '', directory: string): Promise<string[]> {
  const files = (await entries(directory)).filter((file) => file.endsWith(suffix));
  return files.map((file) => file.slice(0, file.length - suffix.length)).filter(isExportName);
}

async function entries(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new Error(`${directory} cannot be read: ${(error as Error).message}; run as root`);
  }
}
