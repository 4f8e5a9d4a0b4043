/** A directory for one test, gone afterwards. Short paths: a unix socket's has 107 bytes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export async function temporaryDirectory(): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'xnbd-'));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}
