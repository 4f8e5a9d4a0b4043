/**
 * Storage that loses what was written to it, made of the kernel's own parts: a file system on a loop device,
 * whose backing file is sparse and lies on a small tmpfs. When that is full the kernel gives up pages that it
 * had accepted, as on a thin volume; when the file system is shut down it forgets them all, as when an iSCSI
 * session is lost.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import koffi from 'koffi';

/** FS_IOC_SHUTDOWN, and EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written. */
const SHUTDOWN = 0x8004587d;
const NO_LOG_FLUSH = 2;

export interface LossyStorage {
  /** Where the file system is mounted. */
  readonly path: string;
  /** Makes a file of zeros whose blocks are the file system's, and not yet the device's. */
  addThin(name: string, bytes: number): Promise<void>;
  /** From now on the device takes so many bytes more. */
  fill(spare: number): void;
  makeRoom(): void;
  /** Mounts it anew, as after an orderly umount. */
  remount(): void;
  /** Forgets what was not synced, and is mounted anew. */
  loseAndRemount(): void;
  /** Unmounts all of it. */
  end(): void;
}

/** @param bytes size of the file system. @throws Error where such things cannot be mounted. */
export async function lossyStorage(directory: string, bytes: number): Promise<LossyStorage> {
  const room = join(directory, 'room');
  const path = join(directory, 'store');
  const file = join(room, 'device');
  await mkdir(room);
  await mkdir(path);
  const run = (command: string, ...args: string[]) =>
    execFileSync(command, args, { stdio: 'pipe' }).toString().trim();
  run('mount', '-t', 'tmpfs', '-o', `size=${bytes * 2}`, 'tmpfs', room);
  // A device of its own each time: another mount namespace on this host may have the mount before this one
  // still.
  const mount = () => {
    const device = run('losetup', '-f', '--show', file);
    try {
      run('mount', device, path);
    } finally {
      // As soon as nobody has it mounted.
      run('losetup', '-d', device);
    }
  };
  try {
    await writeFile(file, '');
    await truncate(file, bytes);
    const whole = 'lazy_itable_init=0,lazy_journal_init=0,nodiscard';
    run('mkfs.ext4', '-q', '-m', '0', '-b', '4096', '-J', 'size=4', '-E', whole, file);
    // The tables and the journal, which come first, get their room: it is data that does not fit.
    run('dd', `if=${file}`, `of=${file}`, 'bs=1M', 'count=9', 'conv=notrunc');
    mount();
  } catch (error) {
    run('umount', room);
    throw error;
  }
  return {
    path,
    addThin: async (name, size) => {
      await writeFile(join(path, name), Buffer.alloc(size));
      run('sync', '-f', path);
      // The file system has given it blocks; those of the device get none before they are written.
      const extents = run('filefrag', '-e', '-b1', join(path, name)).matchAll(
        /^ *\d+: +\d+\.\. *\d+: +(\d+)\.\. *(\d+):/gm,
      );
      for (const [, first, last] of extents)
        run('fallocate', '-p', '-o', first!, '-l', String(Number(last) - Number(first) + 1), file);
    },
    fill: (spare) => {
      // What the file system needs for itself has its place: it is data that does not fit.
      run('sync', '-f', path);
      const used = Number(run('du', '-B1', file).split('\t')[0]);
      run('mount', '-o', `remount,size=${used + spare}`, room);
    },
    makeRoom: () => void run('mount', '-o', `remount,size=${bytes * 2}`, room),
    remount: () => {
      // It tells of what was lost before, once.
      spawnSync('sync', ['-f', path]);
      run('umount', path);
      mount();
    },
    loseAndRemount: () => {
      const ioctl = koffi.load(null).func('int ioctl(int fd, unsigned long request, void *argument)');
      const fd = openSync(path, 'r');
      const flags = Buffer.alloc(4);
      flags.writeUInt32LE(NO_LOG_FLUSH);
      const failed = (ioctl(fd, SHUTDOWN, flags) as number) !== 0;
      closeSync(fd);
      if (failed) throw new Error(`the file system cannot be shut down: errno ${koffi.errno()}`);
      run('umount', path);
      mount();
    },
    end: () => {
      run('umount', path);
      // The loop device lets go of its file when nobody has it mounted.
      run('umount', '-l', room);
    },
  };
}
