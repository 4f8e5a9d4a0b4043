/** The sockets of an export are opened, or taken from an earlier process together with its connections. */
import type { Address } from '../../config/address.ts';
import type { ControlServer } from '../../control/server.ts';
import { log } from '../../log/log.ts';
import type { Export } from '../export.ts';
import type { LeaseLink } from '../lending/lease.ts';
import type { Listener } from '../session/listener.ts';
import { stretchOf } from './state.ts';
import type { Taken } from './taken.ts';

interface Doors {
  running: Export;
  listener: Listener;
  control: ControlServer;
}

export interface DoorOptions {
  /** Paths of the NBD socket and the control socket. */
  socket: string;
  ctl: string;
  /** Group that may connect to the first; see socket-access.ts. */
  socketGroup?: string | undefined;
  listen?: Address | undefined;
}

/**
 * The NBD socket last, because a client that finds it may use it.
 * @returns where TCP clients connect. @throws Error of one line when a socket cannot be had
 */
export async function openDoors(
  options: DoorOptions,
  doors: Doors,
  taken: Taken | null,
): Promise<Address | undefined> {
  const { listener, control } = doors;
  const { listen, socket, ctl } = options;
  const had = taken === null ? { ctl: -1, tcp: -1, nbd: -1 } : takeOver(doors, taken);
  if (had.ctl >= 0) await control.take(had.ctl, ctl);
  else await control.listen(ctl);
  let tcp: Address | undefined;
  if (listen !== undefined)
    tcp = await (had.tcp >= 0 ? listener.takeTcp(had.tcp, listen) : listener.listenTcp(listen));
  if (had.nbd >= 0) await listener.takeUnix(had.nbd, socket);
  else await listener.listenUnix(socket, options.socketGroup);
  return tcp;
}

/** Goes on with the connections. @returns descriptors of what listens; -1: it has not come */
function takeOver({ running, listener }: Doors, taken: Taken): { ctl: number; tcp: number; nbd: number } {
  const { state, bytes } = taken;
  running.writtenBytes = state.writtenBytes;
  const holders: LeaseLink[] = [];
  let connections = 0;
  for (const stored of state.sessions) {
    const fd = taken.descriptor(stored.socket);
    if (fd < 0) continue;
    const received = stretchOf(bytes, stored.received);
    const unsent = stretchOf(bytes, stored.unsent);
    const session = listener.takeConnection(fd, { ...stored, received, unsent });
    if (stored.holds) holders.push(session);
    connections += 1;
  }
  running.lender.remember(state.lending, holders);
  const { ctl, tcp, nbd } = state.listeners;
  const found = {
    ctl: taken.descriptor(ctl),
    tcp: tcp === null ? -1 : taken.descriptor(tcp),
    nbd: taken.descriptor(nbd),
  };
  taken.closeRest();
  const pauseMs = Number(process.hrtime.bigint() - BigInt(state.heldAt)) / 1e6;
  log.info(
    `took over from process ${state.pid} (release ${state.release}): ${connections} connections, which waited ${pauseMs.toFixed(0)} ms`,
  );
  return found;
}
