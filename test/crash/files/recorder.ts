/**
 * Records what this process does to the files under a directory.
 *
 * The functions of node:fs and the system calls through koffi are replaced by ones that note the call and
 * then make it, so the product runs unchanged. What is not noted shows: the trace, played back, must give
 * what is really there (`check-state.ts` compares). This is for a process that does nothing else, because
 * nothing is put back: import it before anything of src/.
 *
 * Syncs are noted and not made. They take as long as the recorder's owner wishes, so that other calls fall in
 * between. And three things that a file's owner asks the kernel are answered for the crash that is being
 * played: the inode of a file (whose copy has another one), the boot id, and whether what is synced is a
 * directory.
 */
import fs from 'node:fs';
import promises from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join, relative, sep } from 'node:path';
import koffi from 'koffi';
import { type Clock, type Event, type Inode, type Operation, ROOT, type Trace } from './trace.ts';

/** The real functions, for whoever is not to be recorded. */
export const real = { fs: { ...fs }, promises: { ...promises } };

export interface Recording {
  readonly root: string;
  readonly clock: Clock;
  readonly trace: Trace;
  /** Paths relative to the root, as they are now. */
  readonly paths: Map<string, Inode>;
  /** Milliseconds that the next sync takes. */
  syncTime(): number;
}

/** What the replaced functions go by. */
export const playing = {
  recording: null as Recording | null,
  bootId: 'a0000000-0000-4000-8000-000000000000',
  /** Absolute path to the inode that it had when it was recorded. */
  inodes: new Map<string, Inode>(),
  /**
   * The next fdatasync of this file, by its path relative to the root, fails; then it is told to its owner.
   */
  failingSync: null as { path: string; failed: () => void } | null,
  /** How often the storage of the destination's image has gone and come back. */
  remounts: 0,
  /** Planted: the name of storage does not change when it comes back. */
  forgetsRemounts: false,
  /** Planted: a sync of a directory does nothing. */
  forgetsDirectorySyncs: false,
};

let lastInode = ROOT;
/** By file descriptor; what a number meant before it was given again is overwritten. */
const open = new Map<number, { inode: Inode; position: number }>();

export function newInode(): Inode {
  return ++lastInode;
}

/** Forgets which files are open: their owners are dead. */
export function forgetOpenFiles(): void {
  open.clear();
}

function begin(operation: Operation): Event {
  const { trace, clock } = playing.recording!;
  const event = { operation, began: clock.tick(), ended: Number.POSITIVE_INFINITY };
  trace.events.push(event);
  return event;
}

function end(event: Event): void {
  event.ended = playing.recording?.clock.tick() ?? event.began;
}

/** One that failed has not happened. */
function undo(event: Event): void {
  const events = playing.recording?.trace.events;
  events?.splice(events.indexOf(event), 1);
}

async function noted<T>(operation: Operation | null, call: () => Promise<T>): Promise<T> {
  if (operation === null) return call();
  const event = begin(operation);
  try {
    const result = await call();
    end(event);
    return result;
  } catch (error) {
    undo(event);
    throw error;
  }
}

interface Place {
  relative: string;
  name: string;
  directory: Inode;
  inode: Inode | undefined;
}

/** Where a path is in what is being recorded; undefined: elsewhere. */
function placeOf(path: unknown): Place | undefined {
  if (playing.recording === null || typeof path !== 'string') return undefined;
  const { root, paths } = playing.recording;
  const inside = relative(root, path);
  if (inside === '' || inside.startsWith('..')) return undefined;
  const at = inside.lastIndexOf(sep);
  const directory = paths.get(at === -1 ? '' : inside.slice(0, at));
  if (directory === undefined) return undefined;
  return { relative: inside, name: inside.slice(at + 1), directory, inode: paths.get(inside) };
}

function data(fd: number, bytes: Uint8Array, offset: number): Operation | null {
  const file = playing.recording === null ? undefined : open.get(fd);
  return file === undefined ? null : { kind: 'write', inode: file.inode, offset, data: Buffer.from(bytes) };
}

/** Replaces the functions, for good. */
export async function install(): Promise<void> {
  replaceCalls();
  replacePromises();
  await replaceHandle();
  replaceKoffi();
  syncBuiltinESMExports();
}

type Callback = (error: NodeJS.ErrnoException | null, result?: number) => void;

function replaceCalls(): void {
  const patched = fs as unknown as Record<string, unknown>;
  patched['writeSync'] = (fd: number, bytes: Buffer, offset: number, length: number, position: number) => {
    if (!Buffer.isBuffer(bytes)) return real.fs.writeSync(fd, bytes, offset, length as never);
    const operation = data(fd, bytes.subarray(offset, offset + length), position);
    const event = operation === null ? null : begin(operation);
    const count = real.fs.writeSync(fd, bytes, offset, length, position);
    if (event !== null) end(event);
    return count;
  };
  patched['write'] = (
    fd: number,
    bytes: Buffer,
    offset: number,
    length: number,
    position: number,
    done: Callback,
  ) => {
    const operation = data(fd, bytes.subarray(offset, offset + length), position);
    const event = operation === null ? null : begin(operation);
    real.fs.write(fd, bytes, offset, length, position, (error, count) => {
      if (event !== null) {
        if (error === null) end(event);
        else undo(event);
      }
      done(error, count);
    });
  };
  patched['fdatasync'] = (fd: number, done: Callback) =>
    void sync(fd, true).then(
      () => done(null),
      (error: unknown) => done(error as NodeJS.ErrnoException),
    );
  patched['fsync'] = patched['fdatasync'];
}

async function sync(fd: number, mayFail = false): Promise<void> {
  const file = open.get(fd);
  if (playing.recording === null || file === undefined) return;
  if (playing.forgetsDirectorySyncs && real.fs.fstatSync(fd).isDirectory()) return;
  const { failingSync } = playing;
  const fails =
    mayFail && failingSync !== null && playing.recording.paths.get(failingSync.path) === file.inode;
  if (fails) playing.failingSync = null;
  const event = begin({ kind: fails ? 'failed sync' : 'sync', inode: file.inode });
  const time = playing.recording.syncTime();
  await new Promise<void>((resolve) => (time < 1 ? setImmediate(resolve) : setTimeout(resolve, time)));
  if (!fails) {
    end(event);
    return;
  }
  if (event.operation.kind === 'failed sync') event.operation.failedAt = playing.recording.clock.tick();
  failingSync.failed();
  // Its owner has heard of it, and done at once what it does: a crash in between is not covered
  // (docs/safety.md).
  setImmediate(() => end(event));
  throw Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' });
}

function replacePromises(): void {
  const patched = promises as unknown as Record<string, unknown>;
  patched['open'] = async (path: string, flags: string | number = 'r', mode?: number) => {
    const place = placeOf(path);
    if (place === undefined) {
      const handle = await real.promises.open(path, flags, mode);
      // Of a file that has been closed.
      open.delete(handle.fd);
      return handle;
    }
    const creates = typeof flags === 'string' ? /^[wa]/.test(flags) : (flags & fs.constants.O_CREAT) !== 0;
    const truncates =
      typeof flags === 'string' ? flags.startsWith('w') : (flags & fs.constants.O_TRUNC) !== 0;
    const { directory, name } = place;
    const inode = place.inode ?? newInode();
    let operation: Operation | null = null;
    if (place.inode === undefined && creates)
      operation = { kind: 'make', directory, name, inode, what: 'file' };
    else if (truncates) operation = { kind: 'size', inode, size: 0 };
    const handle = await noted(operation, () => real.promises.open(path, flags, mode));
    playing.recording!.paths.set(place.relative, inode);
    open.set(handle.fd, { inode, position: 0 });
    return handle;
  };
  patched['mkdir'] = async (path: string, options: { recursive?: boolean; mode?: number } = {}) => {
    if (placeOf(path) === undefined && playing.recording !== null && options.recursive === true) {
      const { root } = playing.recording;
      if (path.startsWith(root + sep)) {
        const first = await promises.mkdir(join(path, '..'), options);
        return (await promises.mkdir(path, options)) === undefined ? first : (first ?? path);
      }
    }
    const place = placeOf(path);
    if (place === undefined) return real.promises.mkdir(path, options);
    if (place.inode !== undefined && options.recursive === true) return undefined;
    const { directory, name } = place;
    const inode = newInode();
    await noted({ kind: 'make', directory, name, inode, what: 'directory' }, () =>
      real.promises.mkdir(path, { mode: options.mode ?? 0o777 }),
    );
    playing.recording!.paths.set(place.relative, inode);
    return options.recursive === true ? path : undefined;
  };
  patched['rename'] = async (from: string, to: string) => {
    const source = placeOf(from);
    const target = placeOf(to);
    if (source?.inode === undefined || target === undefined) return real.promises.rename(from, to);
    const { inode, name } = source;
    await noted(
      { kind: 'move', from: source.directory, name, to: target.directory, newName: target.name, inode },
      () => real.promises.rename(from, to),
    );
    const { paths } = playing.recording!;
    for (const [path, each] of [...paths]) {
      if (path !== source.relative && !path.startsWith(source.relative + sep)) continue;
      paths.delete(path);
      paths.set(target.relative + path.slice(source.relative.length), each);
    }
  };
  const removing = (call: (path: string) => Promise<void>) => async (path: string) => {
    const place = placeOf(path);
    if (place?.inode === undefined) return call(path);
    const { directory, name } = place;
    await noted({ kind: 'remove', directory, name }, () => call(path));
    playing.recording!.paths.delete(place.relative);
  };
  patched['unlink'] = removing(real.promises.unlink);
  patched['rmdir'] = removing((path) => real.promises.rmdir(path));
  patched['rm'] = async (path: string, options: { force?: boolean; recursive?: boolean } = {}) => {
    if (placeOf(path) === undefined) return real.promises.rm(path, options);
    const found = await real.promises.lstat(path).catch(() => undefined);
    if (found === undefined) return real.promises.rm(path, options);
    if (found.isDirectory() && options.recursive === true) {
      for (const name of await real.promises.readdir(path)) await promises.rm(join(path, name), options);
      return promises.rmdir(path);
    }
    return found.isDirectory() ? real.promises.rm(path, options) : promises.unlink(path);
  };
  patched['stat'] = async (path: string) => {
    const found = await real.promises.stat(path);
    const inode = placeOf(path)?.inode ?? playing.inodes.get(path);
    if (inode !== undefined) found.ino = inode;
    return found;
  };
  patched['readFile'] = async (path: string, ...options: []) => {
    if (path === '/proc/sys/kernel/random/boot_id') return `${playing.bootId}\n`;
    return real.promises.readFile(path, ...options);
  };
}

interface Handle {
  fd: number;
  write(...args: unknown[]): Promise<{ bytesWritten: number; buffer: Buffer }>;
  truncate(length?: number): Promise<void>;
  stat(): Promise<fs.Stats>;
}

async function replaceHandle(): Promise<void> {
  const probe = await real.promises.open('/dev/null');
  const prototype = Object.getPrototypeOf(probe) as Record<string, unknown>;
  await probe.close();
  const original = { ...prototype, ...allOf(prototype) } as unknown as Handle;
  prototype['write'] = function (
    this: Handle,
    bytes: Buffer,
    offset: number,
    length: number,
    position: number,
  ) {
    const operation = data(this.fd, bytes.subarray(offset, offset + length), position);
    return noted(operation, () => original.write.call(this, bytes, offset, length, position));
  };
  prototype['writeFile'] = async function (this: Handle, content: string | Buffer) {
    const bytes = Buffer.from(content as Buffer);
    const file = open.get(this.fd);
    let position = file?.position ?? 0;
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.write(bytes, at, bytes.length - at, position);
      at += bytesWritten;
      position += bytesWritten;
    }
    if (file !== undefined) file.position = position;
  };
  prototype['truncate'] = function (this: Handle, size = 0) {
    const file = playing.recording === null ? undefined : open.get(this.fd);
    const operation: Operation | null = file === undefined ? null : { kind: 'size', inode: file.inode, size };
    return noted(operation, () => original.truncate.call(this, size));
  };
  prototype['stat'] = async function (this: Handle) {
    const found = await original.stat.call(this);
    // As for a path: of what is being played, or was before.
    const inode =
      open.get(this.fd)?.inode ?? playing.inodes.get(real.fs.readlinkSync(`/proc/self/fd/${this.fd}`));
    if (inode !== undefined) found.ino = inode;
    return found;
  };
  prototype['sync'] = function (this: Handle) {
    return sync(this.fd);
  };
  prototype['datasync'] = prototype['sync'];
}

function allOf(prototype: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.getOwnPropertyNames(prototype)
      .filter((name) => name !== 'fd')
      .map((name) => [name, (prototype as Record<string, unknown>)[name]]),
  );
}

type Libc = (...args: unknown[]) => unknown;

/** fallocate(2) is the one call through koffi that changes a file. */
function replaceKoffi(): void {
  const load = koffi.load;
  koffi.load = ((path: null) => {
    const library = load(path);
    return {
      func: (declaration: string) => {
        const call = library.func(declaration) as Libc & { async: Libc };
        if (declaration.includes('statx')) return mounting(call);
        if (!declaration.includes('fallocate')) return call;
        return Object.assign((...args: unknown[]) => call(...args), { async: clearing(call.async) });
      },
    };
  }) as unknown as typeof koffi.load;
}

/** Where struct statx has the mount's id (src/system/syscalls.ts). */
const STX_MNT_ID = 144;

/** The destination's images have a mount of their own. */
function mounting(call: Libc): Libc {
  return (directory, path, flags, mask, result) => {
    const outcome = call(directory, path, flags, mask, result);
    if (String(path).includes('/b/images')) {
      const remounts = playing.forgetsRemounts ? 0 : playing.remounts;
      const id = (result as Buffer).readBigUInt64LE(STX_MNT_ID);
      (result as Buffer).writeBigUInt64LE(id + BigInt(remounts) * 2n ** 40n, STX_MNT_ID);
    }
    return outcome;
  };
}

function clearing(call: Libc): Libc {
  return (fd, mode, offset, length, done) => {
    const file = playing.recording === null ? undefined : open.get(fd as number);
    const event =
      file === undefined
        ? null
        : begin({ kind: 'zero', inode: file.inode, offset: offset as number, length: length as number });
    return call(fd, mode, offset, length, (error: unknown, result: number) => {
      if (event !== null) {
        if (result === 0) end(event);
        else undo(event);
      }
      (done as (error: unknown, result: number) => void)(error, result);
    });
  };
}
