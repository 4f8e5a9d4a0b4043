import type { Socket } from 'node:net';

/** The descriptor of a socket, for system calls of our own; -1 once the socket is closed. Node has it, and documents no way to it. */
export interface Descriptor {
  readonly fd: number;
}

export function descriptorOf(socket: Socket): Descriptor {
  return (socket as unknown as { _handle: Descriptor })._handle;
}
