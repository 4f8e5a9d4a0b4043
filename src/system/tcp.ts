/**
 * How a TCP connection carries bulk so that what is asked for meanwhile is not kept waiting: the kernel
 * sends as the path takes it (BBR, where it has that), and holds little that it has not sent. What waits
 * beyond that waits with us, where what is urgent can pass it.
 */
import type { Socket } from 'node:net';
import { descriptorOf } from './descriptors/descriptor.ts';
import { setSocketOption } from './syscalls.ts';

const SOL_SOCKET = 1;
const SO_SNDBUFFORCE = 32;
const IPPROTO_TCP = 6;
const TCP_CONGESTION = 13;
const TCP_NOTSENT_LOWAT = 25;
/**
 * What has been sent and not acknowledged may be so much: 10 Gbit/s over 100 ms. Needs CAP_NET_ADMIN; without
 * it net.ipv4.tcp_wmem is the limit, of which the default is 4 MiB.
 */
const MOST_IN_FLIGHT = 128 * 1024 * 1024;

export interface BulkConnection {
  /** Bytes that the kernel takes beyond what it has sent. */
  limitUnsent(bytes: number): void;
}

/** @param socket of TCP; on any other nothing happens */
export function carryBulk(socket: Socket): BulkConnection {
  const descriptor = descriptorOf(socket);
  const set = (level: number, name: number, value: Buffer): void => {
    if (descriptor.fd >= 0) setSocketOption(descriptor.fd, level, name, value);
  };
  set(IPPROTO_TCP, TCP_CONGESTION, Buffer.from('bbr'));
  set(SOL_SOCKET, SO_SNDBUFFORCE, number(MOST_IN_FLIGHT));
  return {
    limitUnsent: (bytes) => set(IPPROTO_TCP, TCP_NOTSENT_LOWAT, number(bytes)),
  };
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}
