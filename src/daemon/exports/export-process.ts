/** The processes of exports as /proc shows them: children of a daemon, units, or started by hand. */
import { open, readdir, readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { instanceOf } from '../../system/systemd/unit-name.ts';

const pollMs = 20;

/** True while a process with this id runs an export of this name (ids are given again to others). */
export async function exportRuns(pid: number, name: string): Promise<boolean> {
  try {
    const file = await open(`/proc/${pid}/cmdline`, 'r');
    try {
      const words = (await file.readFile('utf8')).split('\0');
      const named = words.includes(name) || words.includes(instanceOf(name));
      return named && words.some((word) => word.includes('xnbd-export'));
    } finally {
      await file.close();
    }
  } catch {
    return false;
  }
}

/**
 * Processes of exports that have this state directory, or are about to: of this host, whose view of the file
 * system is ours.
 */
export async function exportsWith(stateDir: string): Promise<number[]> {
  const here = await readlink('/proc/self/ns/mnt');
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      if (!words.includes(stateDir) || !words.some((word) => word.includes('xnbd-export'))) return false;
      // Another host, in a container or a test, may have the same paths.
      return (await readlink(`/proc/${pid}/ns/mnt`).catch(() => '')) === here;
    }),
  );
  return pids.filter((_, at) => found[at]);
}

/** Ends an export's process the hard way, and waits until it is gone. */
export async function killExport(pid: number, name: string): Promise<void> {
  while (await exportRuns(pid, name)) {
    process.kill(pid, 'SIGKILL');
    await sleep(pollMs);
  }
}
