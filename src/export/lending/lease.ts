/** A lease in force: its holder, over which connections, and when the holder was heard last. */
import type { Peer } from '../../nbd/handshake/peer.ts';
import type { LeaseMemory } from './lending-memory.ts';

/** A connection that may attach. */
export interface LeaseLink {
  /** The host of the network whose connection it is; null: a client of this host. */
  readonly peer: Peer | null;
  /** Closes it now. */
  destroy(): void;
}

/**
 * A holder that has asked for something less than so long ago is alive: one that has all it needs asks (PING)
 * every 15 s.
 */
const ALIVE_MS = 20_000;

export class Lease {
  readonly uuid: string;
  /** What the host that made it is known by; null: any that knows it, as earlier releases had it. */
  readonly identity: string | null;
  /** Where the holder says that it is; empty: it did not tell. */
  holder = '';
  readonly #links = new Set<LeaseLink>();
  #heardAt = Number.NEGATIVE_INFINITY;

  constructor(uuid: string, identity: string | null) {
    this.uuid = uuid;
    this.identity = identity;
  }

  /** As an earlier process knew it. */
  static remembered({ uuid, identity, holder, quietMs }: LeaseMemory, links: readonly LeaseLink[]): Lease {
    const lease = new Lease(uuid, identity);
    lease.holder = holder;
    for (const link of links) lease.#links.add(link);
    if (quietMs !== null) lease.#heardAt = performance.now() - quietMs;
    return lease;
  }

  get memory(): LeaseMemory {
    const { uuid, identity, holder } = this;
    const quietMs = performance.now() - this.#heardAt;
    return { uuid, identity, holder, quietMs: Number.isFinite(quietMs) ? quietMs : null };
  }

  /** Its connections, now. */
  get links(): number {
    return this.#links.size;
  }

  has(link: LeaseLink): boolean {
    return this.#links.has(link);
  }

  add(link: LeaseLink, holder: string): void {
    this.#links.add(link);
    this.holder = holder;
    this.#heardAt = performance.now();
  }

  /** @returns false: it was none of this lease */
  remove(link: LeaseLink): boolean {
    return this.#links.delete(link);
  }

  /** A connection has asked for something. */
  heard(link: LeaseLink): void {
    if (this.#links.has(link)) this.#heardAt = performance.now();
  }

  /** Seconds since the holder was heard, while it is alive; null when it is silent or gone. */
  get aliveSince(): number | null {
    const quietMs = performance.now() - this.#heardAt;
    return this.#links.size > 0 && quietMs < ALIVE_MS ? quietMs / 1000 : null;
  }

  /** Closes its connections. */
  cut(except?: LeaseLink): void {
    for (const link of this.#links) if (link !== except) link.destroy();
  }
}
