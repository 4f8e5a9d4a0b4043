/**
 * The local image of a disk: a raw file or a block device.
 *
 * Reads and writes go to the page cache on the loop as long as it answers at once, and to the thread pool
 * when it does not: reads by RWF_NOWAIT, which knows, elsewhere by measuring (loop-or-pool.ts). Whatever may
 * wait for the disk (sync, punch) never runs on the loop.
 *
 * A write is acknowledged when it is in the page cache (it survives kill -9), and survives loss of power once
 * a `sync` that began after it has completed. A sync that fails is never followed by one that succeeds: the
 * kernel reports a lost page once, and forgets it then (qemu does the same).
 */
import { constants as fsConstants, read, readSync, write, writeSync } from 'node:fs';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Errno } from '../../nbd/constants.ts';
import { holderOf } from '../../system/open-files.ts';
import {
  errnoName,
  FallocateMode,
  fallocate,
  lseek,
  readNow,
  Seek,
  SystemErrno,
  willNeed,
} from '../../system/syscalls.ts';
import type { Completion, Extent } from '../completion.ts';
import { syncDirectory } from '../directory.ts';
import { ColdReads } from './cold-reads.ts';
import { extentsOf } from './image-extents.ts';
import { inUse, lockImage } from './image-lock.ts';
import { type Call, ImageTrouble } from './image-trouble.ts';
import { LoopOrPool } from './loop-or-pool.ts';
import { SyncQueue } from './sync-queue.ts';

const ZEROS = Buffer.alloc(1024 * 1024);
/** No hint makes us read more at once, bytes. */
const READAHEAD = 64 * 1024 * 1024;

export interface ZeroOptions {
  /** The space stays allocated. */
  noHole: boolean;
  /** Faster than writing zeros, or not at all. */
  fast: boolean;
}

export class Image {
  /** Absolute. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Told of a read that fails: of which bytes. */
  onReadError: ((position: number, length: number) => void) | null = null;
  readonly #file: FileHandle;
  readonly #fd: number;
  /** A block device, not a file. */
  readonly isBlockDevice: boolean;
  #nowait = true;
  #readPace = new LoopOrPool();
  #writePace = new LoopOrPool();
  #syncs: SyncQueue;
  readonly #cold: ColdReads;
  readonly #trouble: ImageTrouble;

  private constructor(path: string, file: FileHandle, size: number, readOnly: boolean, blockDevice: boolean) {
    this.path = path;
    this.size = size;
    this.readOnly = readOnly;
    this.isBlockDevice = blockDevice;
    this.#trouble = new ImageTrouble(path);
    this.#file = file;
    this.#fd = file.fd;
    this.#cold = new ColdReads(file.fd, (...read) => this.#readInPool(...read));
    this.#syncs = new SyncQueue(file.fd, (error) =>
      this.#report('fdatasync', 0, error.code ?? error.message),
    );
  }

  /** Opens a raw file or a block device. @throws Error of one line, naming the path. */
  static async open(path: string, options: { readOnly?: boolean } = {}): Promise<Image> {
    const readOnly = options.readOnly ?? false;
    const absolute = resolve(path);
    // O_NONBLOCK: a FIFO would keep us for ever.
    const flags = (readOnly ? fsConstants.O_RDONLY : fsConstants.O_RDWR) | fsConstants.O_NONBLOCK;
    let file: FileHandle | null = null;
    try {
      const isDevice = (await stat(absolute)).isBlockDevice();
      file = await open(absolute, isDevice && !readOnly ? flags | fsConstants.O_EXCL : flags);
      const found = await file.stat();
      const size = found.isFile() ? found.size : found.isBlockDevice() ? lseek(file.fd, 0, Seek.END) : -1;
      if (size < 0) throw new Error('it is neither a raw file nor a block device');
      await lockImage(file, absolute, readOnly);
      return new Image(absolute, file, size, readOnly, found.isBlockDevice());
    } catch (error) {
      await file?.close();
      const busy = (error as NodeJS.ErrnoException).code === 'EBUSY';
      const why = busy ? inUse(await holderOf(await stat(absolute), false)) : explain(error, readOnly);
      throw new Error(`cannot open image ${absolute}: ${why}`);
    }
  }

  /**
   * Makes a sparse file of `size` bytes, durably, and opens it. @throws Error when the file exists, or cannot
   * be made.
   */
  static async create(path: string, size: number): Promise<Image> {
    const absolute = resolve(path);
    try {
      const file = await open(absolute, 'wx', 0o600);
      try {
        await file.truncate(size);
        await file.sync();
        await syncDirectory(dirname(absolute));
      } catch (error) {
        await rm(absolute, { force: true });
        throw error;
      } finally {
        await file.close();
      }
    } catch (error) {
      throw new Error(`cannot create image ${absolute} of ${size} bytes: ${explain(error, false)}`);
    }
    return Image.open(absolute);
  }

  /** Fills `into` from `position`, or fails; `into` stays ours until completion. */
  read(into: Buffer, position: number, done: Completion): void {
    if (this.#nowait) {
      const count = readNow(this.#fd, into, position);
      if (count === into.length) done.complete(0);
      else {
        if (count === -SystemErrno.EOPNOTSUPP || count === -SystemErrno.EINVAL) this.#nowait = false;
        this.#cold.read(into, Math.max(count, 0), position, done);
      }
      return;
    }
    const before = performance.now();
    if (!this.#readPace.mayBlock(before)) {
      this.#readInPool(into, 0, position, done);
      return;
    }
    let count: number;
    try {
      count = readSync(this.#fd, into, 0, into.length, position);
    } catch (error) {
      this.#readFailed(into, position, (error as NodeJS.ErrnoException).code, done);
      return;
    }
    this.#readPace.measured(before, performance.now(), into.length);
    if (count === into.length) done.complete(0);
    else this.#readInPool(into, count, position, done);
  }

  /** No more requests are at hand for now: reads that were held back to be made together are made. */
  endBatch(): void {
    this.#cold.endBatch();
  }

  #readInPool(into: Buffer, from: number, position: number, done: Completion): void {
    read(this.#fd, into, from, into.length - from, position + from, (error, count) => {
      if (error !== null) this.#readFailed(into, position, error.code, done);
      else if (from + count === into.length) done.complete(0);
      else if (count === 0) this.#readFailed(into, position, 'end of file', done);
      else this.#readInPool(into, from + count, position, done);
    });
  }

  #readFailed(into: Buffer, position: number, code: string | undefined, done: Completion): void {
    const errno = this.#report('read', position, code);
    this.onReadError?.(position, into.length);
    done.complete(errno);
  }

  /** Writes all of `data`, which is valid only during this call. */
  write(data: Buffer, position: number, done: Completion): void {
    const before = performance.now();
    if (!this.#writePace.mayBlock(before)) {
      this.#writeInPool(Buffer.from(data), 0, position, done);
      return;
    }
    let count: number;
    try {
      count = writeSync(this.#fd, data, 0, data.length, position);
    } catch (error) {
      done.complete(this.#report('write', position, (error as NodeJS.ErrnoException).code));
      return;
    }
    this.#writePace.measured(before, performance.now(), data.length);
    if (count === data.length) done.complete(0);
    else this.#writeInPool(Buffer.from(data), count, position, done);
  }

  #writeInPool(data: Buffer, from: number, position: number, done: Completion): void {
    write(this.#fd, data, from, data.length - from, position + from, (error, count) => {
      if (error !== null) done.complete(this.#report('write', position, error.code));
      else if (from + count === data.length) done.complete(0);
      else this.#writeInPool(data, from + count, position, done);
    });
  }

  /** Completes once every write that completed before this call survives loss of power. */
  sync(done: Completion): void {
    this.#syncs.sync(done);
  }

  /**
   * The range reads as zeros afterwards. Fast means by the file system's or the device's own means, which say
   * at once when they cannot: then it is ENOTSUP, with nothing changed. (A block device zeroes without
   * unmapping by writing, so that is never fast.)
   */
  zero(position: number, length: number, how: ZeroOptions, done: Completion): void {
    if (how.fast && how.noHole && this.isBlockDevice) done.complete(Errno.ENOTSUP);
    else if (how.noHole) this.allocateZeros(position, length, done, how.fast);
    else this.punch(position, length, done, how.fast);
  }

  /** The range reads as zeros afterwards, and its space is given back where the file system can do that. */
  punch(position: number, length: number, done: Completion, fast = false): void {
    this.#clear(FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE, 'punch', position, length, fast, done);
  }

  /** The range reads as zeros afterwards, and has its space. */
  allocateZeros(position: number, length: number, done: Completion, fast = false): void {
    const mode = FallocateMode.ZERO_RANGE | FallocateMode.KEEP_SIZE;
    this.#clear(mode, 'zero range', position, length, fast, done);
  }

  #clear(mode: number, what: Call, position: number, length: number, fast: boolean, done: Completion): void {
    if (length === 0) {
      done.complete(0);
      return;
    }
    fallocate(this.#fd, mode, position, length, (errno) => {
      if (errno === 0) done.complete(0);
      else if (this.#cannotClear(errno)) {
        if (fast) done.complete(Errno.ENOTSUP);
        else this.#writeZeros(position, length, done);
      } else done.complete(this.#report(what, position, errnoName(errno)));
    });
  }

  /** A block device clears whole sectors only, and calls anything else invalid. */
  #cannotClear(errno: number): boolean {
    const { EOPNOTSUPP, ENOSYS, EINVAL } = SystemErrno;
    return errno === EOPNOTSUPP || errno === ENOSYS || (errno === EINVAL && this.isBlockDevice);
  }

  /**
   * Has the range read into the page cache, as much of it as the kernel sees fit; completes without waiting
   * for that.
   */
  willNeed(position: number, length: number, done: Completion): void {
    willNeed(this.#fd, position, Math.min(length, READAHEAD), () => done.complete(0));
  }

  #writeZeros(position: number, length: number, done: Completion): void {
    if (length === 0) {
      done.complete(0);
      return;
    }
    write(this.#fd, ZEROS, 0, Math.min(length, ZEROS.length), position, (error, count) => {
      if (error === null) this.#writeZeros(position + count, length - count, done);
      else done.complete(this.#report('write of zeros', position, error.code));
    });
  }

  /**
   * What of the range is data and what is a hole, in order; with `one` the first extent alone. May stop short
   * of `length`.
   */
  extents(position: number, length: number, one: boolean): Extent[] {
    return extentsOf(this.#fd, position, length, one);
  }

  /** To be called when every request has completed. */
  close(): Promise<void> {
    return this.#file.close();
  }

  /** What is wrong with its storage, in one line; null while all is well. */
  get trouble(): string | null {
    return this.#trouble.line;
  }

  /** A sync failed, in one line; null: none has. */
  get lostSync(): string | null {
    return this.#trouble.lostSync;
  }

  /** Every block has been read or written since it failed. */
  overcome(): void {
    this.#trouble.overcome();
  }

  /** @returns the NBD errno for the client */
  #report(call: Call, position: number, code: string | undefined): number {
    this.#trouble.met(call, position, code);
    switch (code) {
      case 'ENOSPC':
      case 'EDQUOT':
        return Errno.ENOSPC;
      case 'ENOMEM':
        return Errno.ENOMEM;
      default:
        return Errno.EIO;
    }
  }
}

function explain(error: unknown, readOnly: boolean): string {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
      return 'no such file';
    case 'EEXIST':
      return 'the file exists already';
    case 'EISDIR':
      return 'it is a directory';
    case 'EACCES':
    case 'EROFS':
    case 'EPERM':
      return readOnly ? 'permission denied' : 'no permission to write it (--read-only serves it without)';
    case 'ENOSPC':
      return 'no space left on its file system';
    case 'EFBIG':
      return 'its file system cannot hold a file of that size';
    default:
      return message;
  }
}
