/** Images for the benchmarks: full of noise, or half empty; emptied again, or dropped from the page cache. */
import { execFile } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';
import { promisify } from 'node:util';

const execute = promisify(execFile);
const CHUNK = 16 * 1024 * 1024;

/** Makes a file of noise, durable. With `everyOther` every second 16 MiB are a hole. */
export async function makeImage(path: string, sizeBytes: number, everyOther = false): Promise<void> {
  const file = await open(path, 'w');
  const chunk = randomFillSync(Buffer.alloc(CHUNK));
  await file.truncate(sizeBytes);
  for (let at = 0; at < sizeBytes; at += everyOther ? 2 * CHUNK : CHUNK) {
    await file.write(chunk, 0, Math.min(CHUNK, sizeBytes - at), at);
  }
  await file.sync();
  await file.close();
}

/** Nothing but a hole remains; whoever has it open keeps its size. */
export async function emptyImage(path: string, sizeBytes: number): Promise<void> {
  await execute('fallocate', ['--punch-hole', '--offset', '0', '--length', String(sizeBytes), path]);
}

/** Writes back what is dirty, then drops the file's pages from the cache. */
export async function dropFromCache(path: string): Promise<void> {
  const file = await open(path, 'r');
  await file.sync();
  await file.close();
  await execute('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}
