/** Exports at the gateways of other hosts: how they are named, and which of the `[peers]` serves one whose domain does not tell. */
import { type Address, formatAddress, type Peer } from '../config/config.ts';
import { log } from '../log/log.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import { OriginConnection } from '../relocation/origin-connection.ts';

/** The URI of an export at a gateway. */
export function exportUri(gateway: Address, name: string): string {
  return `nbd://${formatAddress(gateway)}/${encodeURIComponent(name)}`;
}

/** The URI of the export at the first peer, in the order of the configuration, that serves it; undefined when none does. */
export async function findAtPeers(peers: readonly Peer[], name: string): Promise<string | undefined> {
  const answers = await Promise.all(peers.map((peer) => serves(peer, name)));
  const peer = peers[answers.indexOf(true)];
  return peer && exportUri(peer, name);
}

async function serves(peer: Peer, name: string): Promise<boolean> {
  try {
    const connection = await OriginConnection.connect({ address: parseNbdUri(exportUri(peer, name)) });
    connection.disconnect();
    return true;
  } catch (error) {
    log.debug(`peer ${peer.name} does not serve ${name}: ${(error as Error).message}`, { export: name });
    return false;
  }
}
