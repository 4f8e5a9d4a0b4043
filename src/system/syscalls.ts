/**
 * The system calls that Node lacks, called in libc through koffi. Numbers are those of Linux. Asynchronous
 * ones run in libuv's thread pool; all of them report an errno (0 is success), never throw.
 */
import koffi from 'koffi';

const libc = koffi.load(null);

type AsyncCall = (...args: [...unknown[], (error: unknown, result: number) => void]) => void;

/**
 * koffi throws at the 257th call that is under way. libuv's pool has few threads, so those past MOST_AT_ONCE
 * would wait there anyway.
 */
const MOST_AT_ONCE = 64;
let underWay = 0;
const waiting: (() => void)[] = [];

/** Makes a call in the thread pool, in its turn. */
function inTurn(call: AsyncCall, args: unknown[], done: (result: number) => void): void {
  if (underWay >= MOST_AT_ONCE) {
    waiting.push(() => inTurn(call, args, done));
    return;
  }
  underWay += 1;
  call(...args, (_error: unknown, result: number) => {
    underWay -= 1;
    done(result);
    while (underWay < MOST_AT_ONCE && waiting.length > 0) waiting.shift()!();
  });
}

const fallocateFn = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
const fallocateAsync = fallocateFn.async as AsyncCall;
const fadviseFn = libc.func('int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)');
const fadviseAsync = fadviseFn.async as AsyncCall;
const lseekFn = libc.func('int64_t lseek(int fd, int64_t offset, int whence)') as (
  fd: number,
  offset: number,
  whence: number,
) => number;
const preadv2Fn = libc.func('int64_t preadv2(int fd, void *iov, int count, int64_t offset, int flags)') as (
  fd: number,
  iov: Buffer,
  count: number,
  offset: number,
  flags: number,
) => number;
const statxFn = libc.func(
  'int statx(int directory, const char *path, int flags, uint32_t mask, void *result)',
) as (directory: number, path: string, flags: number, mask: number, result: Buffer) => number;
const fcntlFn = libc.func('int fcntl(int fd, int command, void *argument)') as (
  fd: number,
  command: number,
  argument: Buffer,
) => number;
const flockFn = libc.func('int flock(int fd, int operation)') as (fd: number, operation: number) => number;

const sendFn = libc.func('int64_t send(int fd, uintptr_t bytes, size_t length, int flags)') as (
  fd: number,
  address: number,
  length: number,
  flags: number,
) => number;
const recvFn = libc.func('int64_t recv(int fd, void *bytes, size_t length, int flags)') as (
  fd: number,
  bytes: Buffer,
  length: number,
  flags: number,
) => number;
const setsockoptFn = libc.func(
  'int setsockopt(int fd, int level, int name, void *value, uint32_t length)',
) as (fd: number, level: number, name: number, value: Buffer, length: number) => number;

const getsockoptFn = libc.func(
  'int getsockopt(int fd, int level, int name, void *value, uint32_t *length)',
) as (fd: number, level: number, name: number, value: Buffer, length: Buffer) => number;
const setxattrFn = libc.func(
  'int setxattr(const char *path, const char *name, void *value, size_t size, int flags)',
) as (path: string, name: string, value: Buffer, size: number, flags: number) => number;

const exitFn = libc.func('void _exit(int status)') as (status: number) => void;

const RWF_NOWAIT = 8;
const RANDOM = 1;
const WILLNEED = 3;
const WILLNEED_BYTES = 1024 * 1024;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_PEERCRED = 17;
/** struct ucred: pid, uid, gid. */
const UCRED_BYTES = 12;
const UCRED_UID = 4;
const SO_SNDBUFFORCE = 32;
const LOCK_EX_NB = 2 | 4;
const AT_FDCWD = -100;
const STATX_MNT_ID_UNIQUE = 0x4000;
/** Of struct statx: the whole, and where the mask of what it holds and the mount's id are. */
const STATX_BYTES = 256;
const STX_MASK = 0;
const STX_MNT_ID = 144;
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const FLOCK_BYTES = 32;
const FLOCK_TYPE = { read: 0, write: 1, none: 2 } as const;

export const FallocateMode = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 16 } as const;
export const Seek = { END: 2, DATA: 3, HOLE: 4 } as const;
/** Linux's numbers, which differ from NBD's where NBD has any. */
export const SystemErrno = {
  ENXIO: 6,
  EAGAIN: 11,
  EACCES: 13,
  EBUSY: 16,
  EINVAL: 22,
  ENOSYS: 38,
  EOPNOTSUPP: 95,
} as const;

/** The name of an errno, as in Node's `error.code`. */
export function errnoName(errno: number): string {
  return Object.entries(koffi.os.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
}

/** fallocate(2) in the thread pool. */
export function fallocate(
  fd: number,
  mode: number,
  offset: number,
  length: number,
  done: (errno: number) => void,
): void {
  inTurn(fallocateAsync, [fd, mode, offset, length], (result) => done(result === 0 ? 0 : koffi.errno()));
}

/**
 * posix_fadvise(2), POSIX_FADV_WILLNEED, in the thread pool. The kernel takes no more than about a megabyte a
 * call.
 */
export function willNeed(fd: number, offset: number, length: number, done: () => void): void {
  const part = Math.min(length, WILLNEED_BYTES);
  inTurn(fadviseAsync, [fd, offset, part, WILLNEED], () => {
    if (part === length) done();
    else willNeed(fd, offset + part, length - part, done);
  });
}

/** lseek(2). @returns the position, or minus the errno. */
export function lseek(fd: number, offset: number, whence: number): number {
  const position = lseekFn(fd, offset, whence);
  return position < 0 ? -koffi.errno() : position;
}

const iov = Buffer.alloc(16);

/** preadv2(2) with RWF_NOWAIT: what the page cache holds, now.
 * @returns the bytes read, or minus the errno: -EAGAIN when the read would wait for the disk. */
export function readNow(fd: number, into: Buffer, offset: number): number {
  iov.writeBigUInt64LE(koffi.address(into), 0);
  iov.writeUInt32LE(into.length, 8);
  const count = preadv2Fn(fd, iov, 1, offset, RWF_NOWAIT);
  return count < 0 ? -koffi.errno() : count;
}

/**
 * posix_fadvise(2), POSIX_FADV_WILLNEED, on the loop: begins to read what the page cache lacks of a short
 * range, and does not wait for it.
 */
export function willNeedNow(fd: number, offset: number, length: number): void {
  fadviseFn(fd, offset, length, WILLNEED);
}

/** posix_fadvise(2), POSIX_FADV_RANDOM: nothing is read ahead. */
export function readsAtRandom(fd: number): void {
  fadviseFn(fd, 0, 0, RANDOM);
}

/** Where a buffer that is never moved (its own ArrayBuffer) lies in memory. */
export function addressOf(bytes: Buffer): number {
  return Number(koffi.address(bytes));
}

/** send(2) that never waits and raises no signal. @returns the bytes taken, or minus the errno */
export function sendNow(fd: number, address: number, length: number): number {
  const count = sendFn(fd, address, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  return count < 0 ? -koffi.errno() : count;
}

/**
 * recv(2) that never waits. @returns the bytes received, 0 at the end of the connection, or minus the errno
 */
export function receiveNow(fd: number, into: Buffer): number {
  const count = recvFn(fd, into, into.length, MSG_DONTWAIT);
  return count < 0 ? -koffi.errno() : count;
}

/**
 * Lets the kernel hold so many bytes on their way out of a socket; without privilege as many as
 * net.core.wmem_max allows.
 */
export function setSendBuffer(fd: number, bytes: number): void {
  const value = Buffer.alloc(4);
  value.writeInt32LE(bytes);
  if (setsockoptFn(fd, SOL_SOCKET, SO_SNDBUFFORCE, value, 4) !== 0)
    setsockoptFn(fd, SOL_SOCKET, SO_SNDBUF, value, 4);
}

/** SO_PEERCRED, unix(7): the user who has connected; undefined where the socket is none of that family. */
export function peerUser(fd: number): number | undefined {
  const value = Buffer.alloc(UCRED_BYTES);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(UCRED_BYTES);
  if (getsockoptFn(fd, SOL_SOCKET, SO_PEERCRED, value, length) !== 0) return undefined;
  const user = value.readUInt32LE(UCRED_UID);
  // A TCP socket has -1.
  return user === 0xffffffff ? undefined : user;
}

/** setxattr(2). @returns the errno */
export function setAttribute(path: string, name: string, value: Buffer): number {
  return setxattrFn(path, name, value, value.length, 0) === 0 ? 0 : koffi.errno();
}

/** setsockopt(2). @returns the errno */
export function setSocketOption(fd: number, level: number, name: number, value: Buffer): number {
  return setsockoptFn(fd, level, name, value, value.length) === 0 ? 0 : koffi.errno();
}

/**
 * _exit(2): ends this process now, whatever its threads do. The caller has seen to it that all is durable and
 * said.
 *
 * process.exit() waits for the threads of V8 and of libuv first: for ever, when one of libuv's sits in a call
 * to a disk that does not answer, or when one of V8's waits for the main thread (nodejs/node#54918), and a
 * process that serves no client any more keeps its lock.
 */
export function exitNow(code: number): never {
  exitFn(code);
  // Not reached.
  return process.exit(code);
}

/** flock(2), exclusively, without waiting. @returns the errno; EWOULDBLOCK when another process holds it. */
export function lockExclusively(fd: number): number {
  return flockFn(fd, LOCK_EX_NB) === 0 ? 0 : koffi.errno();
}

/**
 * statx(2): the id of the mount that a path is in, which no other mount ever has; null before Linux 6.8, or
 * when it cannot be had.
 */
export function uniqueMountId(path: string): bigint | null {
  const result = Buffer.alloc(STATX_BYTES);
  if (statxFn(AT_FDCWD, path, 0, STATX_MNT_ID_UNIQUE, result) !== 0) return null;
  if ((result.readUInt32LE(STX_MASK) & STATX_MNT_ID_UNIQUE) === 0) return null;
  return result.readBigUInt64LE(STX_MNT_ID);
}

function lockOf(type: keyof typeof FLOCK_TYPE, start: number, length: number): Buffer {
  const lock = Buffer.alloc(FLOCK_BYTES);
  lock.writeInt16LE(FLOCK_TYPE[type], 0);
  lock.writeBigInt64LE(BigInt(start), 8);
  lock.writeBigInt64LE(BigInt(length), 16);
  return lock;
}

/**
 * fcntl(2), F_OFD_SETLK: a shared lock on bytes of a file, which belongs to the open file description.
 * @returns the errno; EAGAIN: held
 */
export function lockBytes(fd: number, start: number, length: number): number {
  return fcntlFn(fd, F_OFD_SETLK, lockOf('read', start, length)) === 0 ? 0 : koffi.errno();
}

/**
 * fcntl(2), F_OFD_GETLK: does another open file description have a lock on any of these bytes? @returns the
 * errno; EAGAIN: one has
 */
export function testBytes(fd: number, start: number, length: number): number {
  const lock = lockOf('write', start, length);
  if (fcntlFn(fd, F_OFD_GETLK, lock) !== 0) return koffi.errno();
  return lock.readInt16LE(0) === FLOCK_TYPE.none ? 0 : SystemErrno.EAGAIN;
}
