import type { Socket } from 'node:net';

/**
 * The descriptor of a socket, for system calls of our own; -1 once the socket is closed. Node has it, and
 * documents no way to it.
 */
export interface Descriptor {
  readonly fd: number;
}

const NONE: Descriptor = { fd: -1 };

/** @returns what is -1 for a stream that the kernel knows nothing of */
export function descriptorOf(socket: Socket): Descriptor {
  return (socket as unknown as { _handle?: Descriptor })._handle ?? NONE;
}
