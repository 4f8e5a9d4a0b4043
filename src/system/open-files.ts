/** Which process has a file open, for an error that names it. */
import type { Stats } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { nameOfInstance } from './systemd/unit-name.ts';

export interface Holder {
  pid: number;
  /** The name of the export that it serves, where it is one of ours. */
  exportName: string | null;
  /** The kernel's name for the process. */
  command: string;
}

/**
 * The first process but this one that has a file open and, with `locked`, a lock on it by that. Without
 * privilege only this user's processes are seen. @param file as stat(2) has it
 */
export async function holderOf(file: Stats, locked: boolean): Promise<Holder | null> {
  for (const pid of await entries('/proc')) {
    if (!/^[0-9]+$/.test(pid) || Number(pid) === process.pid) continue;
    for (const fd of await entries(`/proc/${pid}/fd`)) {
      const found = await stat(`/proc/${pid}/fd/${fd}`).catch(() => null);
      if (found === null || !isSame(found, file)) continue;
      const info = await text(`/proc/${pid}/fdinfo/${fd}`);
      if (!locked || info.includes('OFDLCK')) return await describe(Number(pid));
    }
  }
  return null;
}

/** A device has a node wherever somebody made one. */
function isSame(one: Stats, other: Stats): boolean {
  if (one.isBlockDevice() && other.isBlockDevice()) return one.rdev === other.rdev;
  return one.dev === other.dev && one.ino === other.ino;
}

async function describe(pid: number): Promise<Holder> {
  const args = (await text(`/proc/${pid}/cmdline`)).split('\0');
  const program = args.findIndex((arg) => /(^|\/)xnbd-export(\.[a-z]+)?$/.test(arg));
  const exportName = program === -1 ? undefined : args[program + 2];
  return {
    pid,
    exportName: exportName === undefined ? null : nameOfInstance(exportName),
    command: (await text(`/proc/${pid}/comm`)).trim(),
  };
}

async function entries(path: string): Promise<string[]> {
  return await readdir(path).catch(() => []);
}

async function text(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => '');
}
