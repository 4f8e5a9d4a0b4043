/** Files in memory, which live as long as a descriptor of them: memfd_create(2). */
import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import koffi from 'koffi';
import { errnoName } from '../syscalls.ts';

const memfdFn = koffi.load(null).func('int memfd_create(const char *name, unsigned int flags)') as (
  name: string,
  flags: number,
) => number;
const MFD_CLOEXEC = 1;

/** @returns its descriptor. @throws Error that names the errno */
export function memoryFile(name: string, content: readonly Buffer[]): number {
  const fd = memfdFn(name, MFD_CLOEXEC);
  if (fd < 0) throw new Error(`no file in memory: ${errnoName(koffi.errno())}`);
  for (const piece of content) for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
  return fd;
}

/** The whole of a file, which is empty afterwards for all who have a descriptor of it. */
export function takeContent(fd: number): Buffer {
  const content = Buffer.alloc(fstatSync(fd).size);
  for (let at = 0; at < content.length; ) {
    const count = readSync(fd, content, at, content.length - at, at);
    if (count === 0) throw new Error(`a file in memory ends at ${at} of ${content.length} bytes`);
    at += count;
  }
  ftruncateSync(fd, 0);
  return content;
}
