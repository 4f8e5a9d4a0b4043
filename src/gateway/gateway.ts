/** The front door of a host: one port, every export by name. One bad visitor never disturbs the others. */
import type { Address } from '../config/address.ts';
import { log } from '../log/log.ts';
import { Recurring } from '../log/recurring.ts';
import { type TlsParty, TlsRefused } from '../pki/tls.ts';
import { DOOR, Doorkeeper, type DoorOptions } from './doorkeeper.ts';
import { joinStreams } from './join-streams.ts';
import { keepLittleUnsent } from './little-unsent.ts';
import { StreamEnded } from './read-exactly.ts';
import type { Transport, Visitor } from './transport.ts';
import { type Named, receive } from './visit.ts';

/** By source: each of its visits comes from another port. */
const turnedAway = new Recurring('warning');
const shownOut = new Recurring('info');

export interface GatewayOptions {
  /** Directory of the sockets `NAME.sock`. */
  run: string;
  /** Directory of the records, which tell of exports that do not run now; default: nothing tells of them. */
  records?: string;
  /**
   * A visitor is told nothing before TLS and a certificate that this accepts; null: every client that reaches
   * the port is served.
   */
  tls: TlsParty | null;
  listen(visit: (visitor: Visitor) => void): Promise<Transport>;
  /** A visitor that has not named an export by then is shown out. Default 15 000. */
  handshakeLimitMs?: number;
  /** How many visitors may be without an export, and how often each source may come. */
  door?: Partial<DoorOptions>;
}

export interface Gateway {
  readonly address: Address;
  /** Lets no visitor in any more; resolves when all are gone, or have been shown out after `graceMs`. */
  close(graceMs: number): Promise<void>;
}

/** @throws Error when the transport cannot listen. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { run, records = null, tls, handshakeLimitMs = 15_000 } = options;
  const door = { ...DOOR, ...options.door };
  const doorkeeper = new Doorkeeper(door);
  const visits = new Map<Visitor, Promise<void>>();
  let open = true;

  const greet = async (visitor: Visitor): Promise<void> => {
    const plain = visitor.stream;
    plain.on('error', () => plain.destroy());
    const leaves = doorkeeper.enter(visitor);
    if (leaves === visitor) {
      plain.destroy();
      return;
    }
    if (leaves !== null) {
      doorkeeper.leave(leaves, false);
      showOut(leaves, `it named no export, and ${door.standing} others wait`);
    }
    const timer = setTimeout(
      () => showOut(visitor, `it named no export within ${handshakeLimitMs / 1000} s`),
      handshakeLimitMs,
    );
    let named: Named | null = null;
    try {
      named = await receive(visitor, { run, records }, tls);
    } finally {
      clearTimeout(timer);
      doorkeeper.leave(visitor, named !== null);
    }
    if (named === null) return;
    const { stream, who } = visitor;
    log.info(`${who} is at export ${named.name}`, { id: 'peer-arrives', export: named.name, peer: who });
    const leave = keepLittleUnsent(stream, visitor.connection);
    await joinStreams(stream, named.stream);
    leave();
    log.info(
      `${who} has left export ${named.name}: ${stream.bytesRead} bytes from it, ${stream.bytesWritten} to it`,
      { id: 'peer-leaves', export: named.name, peer: who },
    );
  };

  const visit = (visitor: Visitor): void => {
    if (!open) {
      visitor.stream.destroy();
      return;
    }
    const over = greet(visitor)
      .catch((error: unknown) => {
        if (!(error instanceof StreamEnded)) tell(visitor, (error as Error).message);
        if (error instanceof TlsRefused) return;
        // What was answered still goes out.
        visitor.stream.destroySoon();
      })
      .finally(() => visits.delete(visitor));
    visits.set(visitor, over);
  };

  const transport = await options.listen(visit);
  return {
    address: transport.address,
    async close(graceMs) {
      open = false;
      transport.close();
      for (const visitor of doorkeeper.standing()) visitor.stream.destroy();
      const timer = setTimeout(() => {
        for (const visitor of visits.keys()) showOut(visitor, 'the gateway ends');
      }, graceMs);
      await Promise.all(visits.values());
      clearTimeout(timer);
    },
  };
}

function showOut({ who, address, stream }: Visitor, why: string): void {
  shownOut.met(`${who} is shown out: ${why}`, {
    kind: `${address}: ${why}`,
    fields: { id: 'peer-refused', peer: who },
  });
  stream.destroy();
}

function tell({ who, address }: Visitor, fault: string): void {
  turnedAway.met(`${who}: ${fault}`, {
    kind: `${address}: ${fault}`,
    fields: { id: 'peer-refused', peer: who },
  });
}
