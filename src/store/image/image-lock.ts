/**
 * One writer an image, by QEMU's own rules, so that an export, another export and QEMU keep each other out.
 *
 * QEMU (block/file-posix.c) locks single bytes of an image: 100 + N says «I use permission N», 200 + N says
 * «I do not share permission N»; the locks are shared ones, and who takes some looks afterwards whether
 * anybody has the opposite byte. They are locks of the open file description: whoever inherits, or is sent,
 * the descriptor has them, and they end with its last copy. Nothing is written to the image.
 *
 * On a block device they keep QEMU out as well. An exclusive open (O_EXCL) keeps out whom they do not: a
 * mount, LVM, mdadm, who never look at locks.
 */
import type { FileHandle } from 'node:fs/promises';
import { log } from '../../log/log.ts';
import { type Holder, holderOf } from '../../system/open-files.ts';
import { errnoName, lockBytes, SystemErrno, testBytes } from '../../system/syscalls.ts';

/** QEMU's BLK_PERM_*, by the number of the bit. */
const Permission = { consistentRead: 0, write: 1, resize: 3 } as const;
const USED = 100;
const NOT_SHARED = 200;

/**
 * Takes the locks; they end when the file is closed, whatever is thrown.
 * @throws Error, the end of one line, that names who has the image.
 */
export async function lockImage(file: FileHandle, path: string, readOnly: boolean): Promise<void> {
  const used: number[] = [Permission.consistentRead];
  if (!readOnly) used.push(Permission.write);
  const notShared = [Permission.write, Permission.resize];
  const ours = [...used.map((each) => USED + each), ...notShared.map((each) => NOT_SHARED + each)];
  const theirs = [...used.map((each) => NOT_SHARED + each), ...notShared.map((each) => USED + each)];
  for (const [bytes, call] of [
    [ours, lockBytes],
    [theirs, testBytes],
  ] as const) {
    for (const byte of bytes) {
      const errno = call(file.fd, byte, 1);
      if (errno === 0) continue;
      if (errno === SystemErrno.EAGAIN || errno === SystemErrno.EACCES)
        throw new Error(inUse(await holderOf(await file.stat(), true)));
      log.warning(
        `image ${path}: its file system has no locks (${errnoName(errno)}): nobody else is kept out`,
      );
      return;
    }
  }
}

/** What to say of an image that another process has. */
export function inUse(holder: Holder | null): string {
  if (holder === null)
    return 'it is in use by another process (or mounted): end that first; lsof, as root, tells which';
  const { pid, exportName, command } = holder;
  if (exportName !== null) return `export '${exportName}' (process ${pid}) serves it: stop that first`;
  return `it is in use by ${command} (process ${pid}): end that first`;
}
