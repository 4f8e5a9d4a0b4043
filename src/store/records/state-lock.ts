/**
 * One process an export: a lock on its state directory, which the kernel releases when the process ends,
 * however it ends.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { lockExclusively } from '../../system/syscalls.ts';
import { makeDirectory, syncDirectory } from '../directory.ts';

export interface StateLock {
  release(): Promise<void>;
}

/**
 * Makes the directory when there is none; what is in it is durable afterwards. @throws Error naming it, when
 * another process has it.
 */
export async function lockState(stateDir: string): Promise<StateLock> {
  const path = join(stateDir, 'lock');
  try {
    await makeDirectory(stateDir);
    const file = await open(path, 'a', 0o600);
    if (lockExclusively(file.fd) === 0) {
      // An earlier process may have renamed its last record, and not have lived to sync that. Nobody acts on
      // it before it is.
      await syncDirectory(stateDir);
      return { release: () => file.close() };
    }
    await file.close();
  } catch (error) {
    throw new Error(`cannot lock the state directory ${stateDir}: ${(error as Error).message}`);
  }
  throw new Error(
    `state directory ${stateDir} is in use by another xnbd-export: stop it first, or give another --state`,
  );
}
