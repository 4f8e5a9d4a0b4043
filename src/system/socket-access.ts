/**
 * Who may connect to an export's NBD socket besides root, and who a client that has connected is.
 *
 * QEMU's group is one: the socket is given to it, or, by an export that may not change owners (its unit has
 * no CAP_CHOWN), its access list names it. The gateway is the other: a user of its own, whom the access list
 * names; the kernel tells of each connection which user made it, so what the gateway connects to is a peer's,
 * whatever the gateway says, and never the guest's.
 */
import { chownSync, readFileSync } from 'node:fs';
import { log } from '../log/log.ts';
import { qemuGroup } from './socket-group.ts';
import { errnoName, peerUser, SystemErrno, setAttribute } from './syscalls.ts';

const GATEWAY = 'xnbd-gateway';

/** Of posix_acl_xattr.h: version, and an entry's tags. */
const VERSION = 2;
const TAG = { owner: 1, user: 2, owningGroup: 4, group: 8, mask: 16, others: 32 } as const;
const NO_ID = 0xffffffff;
const READ_WRITE = 6;

/**
 * Lets QEMU and the gateway connect, where we are root and there are such. @param group another one than
 * QEMU's, by name. @throws Error naming a group that is not.
 */
export function openToClients(path: string, group?: string): void {
  if (process.getuid?.() !== 0) return;
  const id = qemuGroup(group);
  const isGiven = id === undefined || give(path, id);
  grant(path, gatewayUser(), isGiven ? undefined : id);
}

/** The same for the gateway alone: the socket of an export of a release that did not know it. */
export function openToGateway(path: string): void {
  if (process.getuid?.() === 0) grant(path, gatewayUser(), undefined);
}

/** The process at the other end of a unix socket runs as the gateway's user. */
export function isGateway(fd: number): boolean {
  const user = peerUser(fd);
  return user !== undefined && user === gatewayUser();
}

function give(path: string, group: number): boolean {
  try {
    chownSync(path, 0, group);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EPERM') return false;
    throw error;
  }
}

function grant(path: string, user: number | undefined, group: number | undefined): void {
  if (user === undefined && group === undefined) return;
  const entries: [number, number, number][] = [
    [TAG.owner, READ_WRITE, NO_ID],
    ...(user === undefined ? [] : [[TAG.user, READ_WRITE, user] as [number, number, number]]),
    [TAG.owningGroup, READ_WRITE, NO_ID],
    ...(group === undefined ? [] : [[TAG.group, READ_WRITE, group] as [number, number, number]]),
    [TAG.mask, READ_WRITE, NO_ID],
    [TAG.others, 0, NO_ID],
  ];
  const list = Buffer.alloc(4 + 8 * entries.length);
  list.writeUInt32LE(VERSION, 0);
  for (const [index, [tag, rights, id]] of entries.entries()) {
    list.writeUInt16LE(tag, 4 + 8 * index);
    list.writeUInt16LE(rights, 6 + 8 * index);
    list.writeUInt32LE(id, 8 + 8 * index);
  }
  const errno = setAttribute(path, 'system.posix_acl_access', list);
  // A file system without access lists holds sockets of tests; /run has them.
  if (errno !== 0 && errno !== SystemErrno.EOPNOTSUPP)
    log.warning(`${path}: neither QEMU nor the gateway may connect, access lists fail: ${errnoName(errno)}`);
}

function gatewayUser(): number | undefined {
  for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const [name, , id] = line.split(':');
    if (name === GATEWAY && id !== undefined) return Number(id);
  }
  return undefined;
}
