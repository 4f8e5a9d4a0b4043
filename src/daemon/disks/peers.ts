/**
 * Exports at the gateways of other hosts: how they are named, and which of the `[peers]` serves one whose
 * domain does not tell.
 */

import { OriginConnection } from '../../client/connection.ts';
import { type Address, formatAddress } from '../../config/address.ts';
import type { Config, Peer } from '../../config/config.ts';
import { log } from '../../log/log.ts';
import { parseNbdUri } from '../../nbd/uri.ts';
import { hostParty } from '../../pki/host-party.ts';
import type { TlsParty } from '../../pki/tls.ts';

type Tls = Config['gateway']['tls'];

/** The URI of an export at a gateway. Where TLS is required, it is so at every gateway. */
export function exportUri(gateway: Address, name: string, tls: Tls): string {
  return `${tls === 'off' ? 'nbd' : 'nbds'}://${formatAddress(gateway)}/${encodeURIComponent(name)}`;
}

/**
 * The URI of the export at the first peer, in the order of the configuration, that serves it; undefined when
 * none does.
 */
export async function findAtPeers(
  { peers, gateway, tls }: Config,
  name: string,
): Promise<string | undefined> {
  const party = await hostParty('client', tls);
  const answers = await Promise.all(
    peers.map((peer) => serves(peer, name, exportUri(peer, name, gateway.tls), party)),
  );
  const peer = peers[answers.indexOf(true)];
  return peer && exportUri(peer, name, gateway.tls);
}

async function serves(peer: Peer, name: string, uri: string, tls: TlsParty): Promise<boolean> {
  try {
    const connection = await OriginConnection.connect({ address: parseNbdUri(uri), tls });
    connection.disconnect();
    return true;
  } catch (error) {
    log.debug(`peer ${peer.name} does not serve ${name}: ${(error as Error).message}`, { export: name });
    return false;
  }
}
