/**
 * The new process's side: what an earlier process of the export has handed over, from its own hand
 * (successor.ts) or by way of the service manager's store (service-store.ts).
 *
 * The state can be had once: it is emptied as it is read, for whoever has a descriptor of it. So a process
 * that is started after one that died with it finds nothing, and never answers a request twice.
 */
import { closeSync, writeSync } from 'node:fs';
import { takeContent } from '../../system/descriptors/memory-file.ts';
import { receiveDescriptors } from '../../system/descriptors/messages.ts';
import { storedDescriptors } from './service-store.ts';
import { decodeState, HAND_OVER_VERSION, type HandOverState, nameOf, type SocketName } from './state.ts';
import { type Hello, LAST } from './successor.ts';

export interface Taken {
  readonly state: HandOverState;
  /** To which the stretches of the state point. */
  readonly bytes: Buffer;
  /** The caller's from then on. @returns -1: it has not come, because its other end has been closed */
  descriptor(name: SocketName): number;
  /** Closes what nothing has asked for. */
  closeRest(): void;
}

/**
 * Waits for what is handed over to this process; null: nothing is, and it begins by itself.
 * @throws Error, one line: nothing has come, or what is not for this release
 */
export function takeOverFrom(release: string): Taken | null {
  const channel = process.env.XNBD_TAKE_OVER;
  delete process.env.XNBD_TAKE_OVER;
  const descriptors = channel === undefined ? storedDescriptors() : received(Number(channel), release);
  const [stateFile, ...sockets] = descriptors;
  if (stateFile === undefined) return null;
  const content = takeContent(stateFile);
  closeSync(stateFile);
  const byName = new Map(sockets.map((fd) => [nameOf(fd), fd]));
  const closeRest = (): void => {
    for (const fd of byName.values()) closeSync(fd);
    byName.clear();
  };
  // A process before this one has taken it.
  if (content.length === 0) {
    closeRest();
    return null;
  }
  const { state, bytes } = decodeState(content);
  const descriptor = (name: SocketName): number => {
    const fd = byName.get(name) ?? -1;
    byName.delete(name);
    return fd;
  };
  return { state, bytes, descriptor, closeRest };
}

/** The first one is the state's. */
function received(channel: number, release: string): number[] {
  const hello: Hello = { release, takes: [HAND_OVER_VERSION] };
  writeSync(channel, `${JSON.stringify(hello)}\n`);
  const descriptors: number[] = [];
  let whole = false;
  // To its end: the earlier process has let go of everything then.
  for (let part = receiveDescriptors(channel); part !== undefined; part = receiveDescriptors(channel)) {
    descriptors.push(...part.descriptors);
    whole ||= part.data[0] === LAST;
  }
  closeSync(channel);
  if (!whole) throw new Error('nothing has been handed over: the process before goes on');
  return descriptors;
}
