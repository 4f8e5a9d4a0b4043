/**
 * What a process of an export tells the one that takes its place, besides descriptors: one line of JSON, and
 * behind it bytes that clients sent or have yet to get, to which the JSON points.
 *
 * The two may be of different releases: VERSION grows with each change that an older reader would get wrong.
 * A field that a reader does not know it ignores, and one that it misses it must be able to do without.
 *
 * A descriptor is named by the number of its inode, which no other socket of the system has: so it does not
 * matter in which order descriptors arrive, nor whether a service manager has dropped one that its client
 * closed.
 */
import { fstatSync } from 'node:fs';
import type { LendingMemory } from '../lending/lending-memory.ts';
import type { SessionMemory } from '../session-memory.ts';

export const HAND_OVER_VERSION = 1;

/** The inode of a socket, in decimal. */
export type SocketName = string;

/** Bytes behind the line. */
export interface Stretch {
  at: number;
  length: number;
}

/** One connection. */
export type StoredSession = Omit<SessionMemory, 'received' | 'unsent'> & {
  socket: SocketName;
  received: Stretch;
  unsent: Stretch;
};

export interface HandOverState {
  version: number;
  /** Of the process that hands over. */
  release: string;
  pid: number;
  /** When it took the last request, nanoseconds of CLOCK_MONOTONIC. */
  heldAt: string;
  name: string;
  listeners: { nbd: SocketName; ctl: SocketName; tcp: SocketName | null };
  writtenBytes: number;
  lending: LendingMemory;
  sessions: StoredSession[];
  /** What the kind of disk adds; null: nothing. */
  disk: unknown;
}

export function nameOf(fd: number): SocketName {
  return fstatSync(fd, { bigint: true }).ino.toString();
}

/** The bytes to which stretches point, as they are put one behind the other. */
export class Stretches {
  readonly pieces: Buffer[] = [];
  #length = 0;

  add(bytes: Buffer): Stretch {
    const stretch = { at: this.#length, length: bytes.length };
    if (bytes.length > 0) this.pieces.push(bytes);
    this.#length += bytes.length;
    return stretch;
  }
}

export function encodeState(state: HandOverState, stretches: Stretches): Buffer[] {
  return [Buffer.from(`${JSON.stringify(state)}\n`), ...stretches.pieces];
}

/** @returns the state, and the bytes to which it points. @throws Error, one line, when it is not for us */
export function decodeState(content: Buffer): { state: HandOverState; bytes: Buffer } {
  const end = content.indexOf('\n');
  const state = JSON.parse(content.toString('utf8', 0, Math.max(end, 0))) as HandOverState;
  if (state.version !== HAND_OVER_VERSION) {
    throw new Error(
      `process ${state.pid} (release ${state.release}) hands over in version ${state.version}; this release knows ${HAND_OVER_VERSION}`,
    );
  }
  return { state, bytes: content.subarray(end + 1) };
}

export function stretchOf(bytes: Buffer, { at, length }: Stretch): Buffer {
  return bytes.subarray(at, at + length);
}
