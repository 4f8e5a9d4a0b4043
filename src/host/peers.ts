/** Asks the gateways of the `[peers]` who serves an export: for domains whose metadata does not tell. */
import type { Peer } from '../config/config.ts';
import { formatAddress } from '../config/config.ts';
import { log } from '../log/log.ts';
import { OriginConnection } from '../relocation/origin-connection.ts';

/** The URI of the export at the first peer, in the order of the configuration, that serves it; undefined when none does. */
export async function findAtPeers(peers: readonly Peer[], name: string): Promise<string | undefined> {
  const answers = await Promise.all(peers.map((peer) => serves(peer, name)));
  const peer = peers[answers.indexOf(true)];
  return peer && `nbd://${formatAddress(peer)}/${encodeURIComponent(name)}`;
}

async function serves(peer: Peer, name: string): Promise<boolean> {
  try {
    const connection = await OriginConnection.connect({
      address: { host: peer.host, port: peer.port, path: null, exportName: name },
    });
    connection.disconnect();
    return true;
  } catch (error) {
    log.debug(`peer ${peer.name} does not serve ${name}: ${(error as Error).message}`, { export: name });
    return false;
  }
}
