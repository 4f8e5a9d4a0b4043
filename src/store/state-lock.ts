/** One process an export: a lock on its state directory, which the kernel releases when the process ends, however it ends. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory } from './directory.ts';
import { lockExclusively } from './syscalls.ts';

export interface StateLock {
  release(): Promise<void>;
}

/** Makes the directory when there is none. @throws Error naming it, when another process has it. */
export async function lockState(stateDir: string): Promise<StateLock> {
  const path = join(stateDir, 'lock');
  try {
    await makeDirectory(stateDir);
    const file = await open(path, 'a', 0o600);
    if (lockExclusively(file.fd) === 0) return { release: () => file.close() };
    await file.close();
  } catch (error) {
    throw new Error(`cannot lock the state directory ${stateDir}: ${(error as Error).message}`);
  }
  throw new Error(
    `state directory ${stateDir} is in use by another xnbd-export: stop it first, or give another --state`,
  );
}
