/**
 * One process an export: a lock on its state directory, which the kernel releases when the process ends,
 * however it ends.
 *
 * The lock is on a file in the directory, and both may be removed by the process that has it. A process that
 * opened the file before, and gets its lock after that, has locked what no other will find. So a process that
 * has got a lock looks whether the file is still the one that is found there, and begins again if not; and
 * the file goes last of all that is in the directory, while it is locked.
 */
import { type FileHandle, open, readdir, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { lockExclusively } from '../../system/syscalls.ts';
import { makeDirectory, syncDirectory } from '../directory.ts';

const lockName = 'lock';

export interface StateLock {
  release(): Promise<void>;
}

/**
 * Makes the directory when there is none; what is in it is durable afterwards. @throws Error naming it, when
 * another process has it.
 */
export async function lockState(stateDir: string): Promise<StateLock> {
  try {
    while (true) {
      await makeDirectory(stateDir);
      const file = await openLock(stateDir);
      if (file === null) continue;
      if (lockExclusively(file.fd) !== 0) {
        await file.close();
        break;
      }
      if (await isFoundThere(file, stateDir)) {
        // An earlier process may have renamed its last record, and not have lived to sync that. Nobody acts
        // on it before it is.
        await syncDirectory(stateDir);
        return { release: () => file.close() };
      }
      await file.close();
    }
  } catch (error) {
    throw new Error(`cannot lock the state directory ${stateDir}: ${(error as Error).message}`);
  }
  throw new Error(
    `state directory ${stateDir} is in use by another xnbd-export: stop it first, or give another --state`,
  );
}

/** @returns null when the directory is gone again */
async function openLock(stateDir: string): Promise<FileHandle | null> {
  return await open(join(stateDir, lockName), 'a', 0o600).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  });
}

async function isFoundThere(file: FileHandle, stateDir: string): Promise<boolean> {
  const ours = await file.stat();
  const found = await stat(join(stateDir, lockName)).catch(() => null);
  return found !== null && found.ino === ours.ino && found.dev === ours.dev;
}

/**
 * Removes a state directory and all that is in it, durably; the caller has its lock, and releases it
 * afterwards. A process that makes a new one meanwhile keeps it.
 */
export async function removeStateDirectory(stateDir: string): Promise<void> {
  const names = await readdir(stateDir).catch(() => []);
  for (const name of names)
    if (name !== lockName) await rm(join(stateDir, name), { recursive: true, force: true });
  await removeEmptyStateDirectory(stateDir);
}

/** Removes the lock, and the directory if nothing else is in it; under the lock, as above. */
export async function removeEmptyStateDirectory(stateDir: string): Promise<void> {
  await rm(join(stateDir, lockName), { force: true });
  await syncDirectory(stateDir).catch(() => undefined);
  await rmdir(stateDir).catch(() => undefined);
  await syncDirectory(dirname(stateDir));
}
