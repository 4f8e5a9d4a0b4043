import type { Server, Socket } from 'node:net';

/**
 * The descriptor of a socket, for system calls of our own; -1 once the socket is closed. Node has it, and
 * documents no way to it.
 */
export interface Descriptor {
  readonly fd: number;
}

const NONE: Descriptor = { fd: -1 };

/** What of a stream's handle is used here. */
interface StreamHandle extends Descriptor {
  /** Bytes that libuv was given, and of those the ones that the kernel has not taken. */
  readonly bytesWritten: number;
  readonly writeQueueSize: number;
}

/** @returns what is -1 for a stream that the kernel knows nothing of */
export function descriptorOf(socket: Socket): Descriptor {
  return (socket as unknown as { _handle?: Descriptor })._handle ?? NONE;
}

/** The descriptor of a listening socket; -1 once it is closed. */
export function listeningDescriptor(server: Server): number {
  return (server as unknown as { _handle?: Descriptor })._handle?.fd ?? -1;
}

/** Bytes that were written to the stream, and that the kernel has not taken. */
export function unsentBytes(socket: Socket): number {
  const handle = (socket as unknown as { _handle?: StreamHandle })._handle;
  return handle === undefined ? 0 : socket.bytesWritten - handle.bytesWritten + handle.writeQueueSize;
}
