/**
 * A hand-over by way of systemd: the process that is told to end leaves its descriptors in the store of its
 * unit (FDSTORE=1, sd_notify(3); the unit has FileDescriptorStoreMax=), and the process that is started next
 * finds them (LISTEN_FDS, sd_listen_fds(3)). Whether there will be a next one, the process that ends does not
 * know; if the unit stops, systemd drops the store, and with it the connections.
 */
import { closeSync } from 'node:fs';
import { datagramSocketTo, MOST_DESCRIPTORS, sendDescriptors } from '../../system/descriptors/messages.ts';
import { isService } from '../../system/systemd/service-manager.ts';

const FIRST = 3;
const STATE = 'xnbd-state';
const SOCKET = 'xnbd-socket';

/** systemd keeps descriptors for this process: FDSTORE tells since release 254, our unit has asked before. */
export function hasServiceStore(): boolean {
  const { FDSTORE, NOTIFY_SOCKET } = process.env;
  return NOTIFY_SOCKET?.startsWith('/') === true && (FDSTORE !== undefined || isService());
}

/** Stores the state last: without it the rest is of no use to anyone. @throws Error, one line */
export function storeDescriptors(state: number, sockets: readonly number[]): void {
  const manager = datagramSocketTo(process.env.NOTIFY_SOCKET!);
  try {
    for (let at = 0; at < sockets.length; at += MOST_DESCRIPTORS)
      sendDescriptors(manager, stored(SOCKET), sockets.slice(at, at + MOST_DESCRIPTORS));
    sendDescriptors(manager, stored(STATE), [state]);
  } finally {
    closeSync(manager);
  }
}

function stored(name: string): Buffer {
  return Buffer.from(`FDSTORE=1\nFDNAME=${name}`);
}

/**
 * What the store held when this process was started, the state first; none: nothing. The store is emptied: a
 * process that is started after this one has died begins anew.
 */
export function storedDescriptors(): number[] {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES = '' } = process.env;
  // They are this process's, and none of its children's.
  delete process.env.LISTEN_PID;
  if (LISTEN_PID !== String(process.pid)) return [];
  const names = LISTEN_FDNAMES.split(':');
  const all = Array.from({ length: Number(LISTEN_FDS) }, (_, at) => ({ fd: FIRST + at, name: names[at] }));
  const states = all.filter(({ name }) => name === STATE).map(({ fd }) => fd);
  const sockets = all.filter(({ name }) => name !== STATE).map(({ fd }) => fd);
  if (hasServiceStore()) emptyStore();
  // Each process leaves one, and what is older has been taken.
  const state = states.length === 1 ? states[0] : undefined;
  if (state !== undefined) return [state, ...sockets];
  for (const { fd } of all) closeSync(fd);
  return [];
}

function emptyStore(): void {
  const manager = datagramSocketTo(process.env.NOTIFY_SOCKET!);
  for (const name of [STATE, SOCKET])
    sendDescriptors(manager, Buffer.from(`FDSTOREREMOVE=1\nFDNAME=${name}`), []);
  closeSync(manager);
}
