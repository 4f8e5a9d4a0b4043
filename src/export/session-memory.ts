/** A connection between two processes: what the next one needs to go on where this one stopped. */

import type { HandshakeMemory } from '../nbd/handshake/agreement.ts';
import type { Peer } from '../nbd/handshake/peer.ts';

export interface SessionMemory {
  handshake: HandshakeMemory;
  /** The host of the network whose connection it is; null: a client of this host. */
  peer: Peer | null;
  /** It is a connection of the lease in force. */
  holds: boolean;
  /** Received and not answered: whole requests, and what has come of the next one. */
  received: Buffer;
  /** Of replies, that the socket has not taken. */
  unsent: Buffer;
}
