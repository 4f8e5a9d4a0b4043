/**
 * File descriptors on their way from one process to another, over a unix socket (SCM_RIGHTS, unix(7)). All
 * calls are synchronous: the process that gives its sockets away must not go back to its loop in between,
 * where it would use them.
 */
import koffi from 'koffi';
import { errnoName, SystemErrno } from '../syscalls.ts';

const libc = koffi.load(null);

const sendmsgFn = libc.func('int64_t sendmsg(int fd, void *message, int flags)') as (
  fd: number,
  message: Buffer,
  flags: number,
) => number;
const recvmsgFn = libc.func('int64_t recvmsg(int fd, void *message, int flags)') as (
  fd: number,
  message: Buffer,
  flags: number,
) => number;
const pollFn = libc.func('int poll(void *fds, unsigned long count, int timeout)') as (
  fds: Buffer,
  count: number,
  timeout: number,
) => number;
const socketFn = libc.func('int socket(int domain, int type, int protocol)') as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const connectFn = libc.func('int connect(int fd, void *address, uint32_t length)') as (
  fd: number,
  address: Buffer,
  length: number,
) => number;

/** The kernel takes 253 a message (SCM_MAX_FD). */
export const MOST_DESCRIPTORS = 200;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const POLLOUT = 4;
const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const EINTR = 4;
/** How long a peer may take to make room for a message, milliseconds. */
const SEND_LIMIT_MS = 5000;
/** Of struct cmsghdr. */
const HEADER_BYTES = 16;
/** Of struct msghdr, and where its members are, on every 64 bit system. */
const MESSAGE = { bytes: 56, iov: 16, iovLength: 24, control: 32, controlLength: 40 } as const;

/** A struct msghdr, and what it points to: to be kept as long as it is used. */
interface Message {
  header: Buffer;
  keeps: Buffer[];
}

function messageOf(data: Buffer, control: Buffer): Message {
  const iov = Buffer.alloc(16);
  iov.writeBigUInt64LE(koffi.address(data), 0);
  iov.writeBigUInt64LE(BigInt(data.length), 8);
  const header = Buffer.alloc(MESSAGE.bytes);
  header.writeBigUInt64LE(koffi.address(iov), MESSAGE.iov);
  header.writeBigUInt64LE(1n, MESSAGE.iovLength);
  if (control.length > 0) header.writeBigUInt64LE(koffi.address(control), MESSAGE.control);
  header.writeBigUInt64LE(BigInt(control.length), MESSAGE.controlLength);
  return { header, keeps: [data, iov, control] };
}

/** Space that a control message with so many descriptors takes (CMSG_SPACE). */
function controlSpace(count: number): number {
  return HEADER_BYTES + Math.ceil((4 * count) / 8) * 8;
}

/**
 * Sends data and descriptors, MOST_DESCRIPTORS at most, as one message; waits for room, up to five seconds.
 * The descriptors stay open here. @throws Error that names the errno
 */
export function sendDescriptors(socket: number, data: Buffer, descriptors: readonly number[]): void {
  const control = Buffer.alloc(descriptors.length === 0 ? 0 : controlSpace(descriptors.length));
  if (control.length > 0) {
    control.writeBigUInt64LE(BigInt(HEADER_BYTES + 4 * descriptors.length), 0);
    control.writeInt32LE(SOL_SOCKET, 8);
    control.writeInt32LE(SCM_RIGHTS, 12);
    for (const [index, fd] of descriptors.entries()) control.writeInt32LE(fd, HEADER_BYTES + 4 * index);
  }
  const { header } = messageOf(Buffer.from(data), control);
  for (const deadline = performance.now() + SEND_LIMIT_MS; ; ) {
    if (sendmsgFn(socket, header, MSG_NOSIGNAL) >= 0) return;
    const errno = koffi.errno();
    const mayGoOn = errno === SystemErrno.EAGAIN || errno === EINTR;
    if (!mayGoOn || performance.now() > deadline)
      throw new Error(`descriptors cannot be passed on: ${errnoName(errno)}`);
    awaitRoom(socket);
  }
}

function awaitRoom(socket: number): void {
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(socket, 0);
  entry.writeInt16LE(POLLOUT, 4);
  pollFn(entry, 1, 100);
}

/**
 * Waits for what comes next on a socket. @param bytes at most: 1 keeps apart what has been sent apart, also
 * on a stream. @returns the data, and the descriptors that came with it, which are not inherited by children;
 * undefined at the end. @throws Error that names the errno
 */
export function receiveDescriptors(
  socket: number,
  bytes = 1,
): { data: Buffer; descriptors: number[] } | undefined {
  const data = Buffer.alloc(bytes);
  const control = Buffer.alloc(controlSpace(MOST_DESCRIPTORS));
  const { header } = messageOf(data, control);
  let count: number;
  do count = recvmsgFn(socket, header, MSG_CMSG_CLOEXEC);
  while (count < 0 && koffi.errno() === EINTR);
  if (count < 0) throw new Error(`descriptors cannot be received: ${errnoName(koffi.errno())}`);
  if (count === 0) return undefined;
  const descriptors: number[] = [];
  if (Number(header.readBigUInt64LE(MESSAGE.controlLength)) >= HEADER_BYTES) {
    const end = Number(control.readBigUInt64LE(0));
    for (let at = HEADER_BYTES; at + 4 <= end; at += 4) descriptors.push(control.readInt32LE(at));
  }
  return { data: data.subarray(0, count), descriptors };
}

/** A datagram socket that is connected to a path. @throws Error that names path and errno */
export function datagramSocketTo(path: string): number {
  const fd = socketFn(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
  const name = Buffer.from(path);
  const address = Buffer.alloc(2 + name.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  if (fd >= 0 && connectFn(fd, address, address.length) === 0) return fd;
  throw new Error(`cannot connect to ${path}: ${errnoName(koffi.errno())}`);
}
