/** One process an export: a lock on its state directory, which the kernel releases when the process ends, however it ends. */
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory } from './record.ts';
import { lockExclusively } from './syscalls.ts';

export interface StateLock {
  release(): Promise<void>;
}

/** Makes the directory when there is none. @throws Error naming it, when another process has it. */
export async function lockState(stateDir: string): Promise<StateLock> {
  const path = join(stateDir, 'lock');
  try {
    const made = await mkdir(stateDir, { recursive: true, mode: 0o700 });
    if (made !== undefined) await syncDirectory(dirname(stateDir));
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
