/**
 * Where an arriving disk is now. The domain's metadata tells, and it is a claim: what came with a domain may
 * name any host, any disk and any socket. So it is held against the disk's own name, the hosts that this one
 * knows, and, at the first attach, against uuid and generation.
 */
import { formatAddress } from '../../config/address.ts';
import type { Config } from '../../config/config.ts';
import type { DomainInfo } from '../../libvirt/domain-xml.ts';
import { formatNbdUri, type NbdAddress, parseNbdUri } from '../../nbd/uri.ts';
import type { ArrivingOrigin } from '../exports/arguments.ts';
import { exportUri, findAtPeers } from './peers.ts';

/**
 * The origin of a disk: as the source's daemon wrote it into the domain's metadata, else from the peer that
 * serves the name.
 * @throws Error of one line: nobody tells, or what was told is not to be believed.
 */
export async function findOrigin(config: Config, domain: DomainInfo, name: string): Promise<ArrivingOrigin> {
  const claimed = domain.origins.get(name);
  if (claimed === undefined) {
    const uri = await atPeers(config, domain, name);
    checkElsewhere(config, name, uri);
    return { uri, mustBeAllowed: false };
  }
  const { uri, uuid, generation } = claimed;
  const mustBeAllowed = checkClaim(config, name, uri);
  return { uri, expected: { uuid, generation }, mustBeAllowed };
}

async function atPeers(config: Config, domain: DomainInfo, name: string): Promise<string> {
  const uri = await findAtPeers(config, name);
  if (uri !== undefined) return uri;
  const asked = config.peers.map((peer) => peer.name).join(', ');
  throw new Error(
    `it is not known where disk ${name} of ${domain.name} is now: the domain carries no xnbd metadata (does xnbdd run at the source, ` +
      `with libvirt-dbus?), and ${asked === '' ? '[peers] of xnbd.conf names no host' : `of [peers] none serves it (${asked})`}`,
  );
}

/** @returns whether the origin's certificate has to be in `allow` */
function checkClaim(config: Config, name: string, uri: string): boolean {
  const { gateway, peers, tls } = config;
  const what = `the origin of disk ${name} is ${uri}`;
  const address = parseNbdUri(uri);
  if (address.kind === 'unix')
    throw new Error(`${what}, a socket of this host: a disk arrives from another host's gateway`);
  if (address.name !== name) throw new Error(`${what}, which is another disk: refused`);
  if (gateway.tls === 'required' && address.kind === 'tcp') {
    throw new Error(
      `${what}, in the clear, and this host requires TLS: require it at the source, too ([gateway] tls in its xnbd.conf)`,
    );
  }
  checkElsewhere(config, name, uri);
  if (peers.some((peer) => isAt(peer, address))) return false;
  const known = gateway.tls === 'required' ? tls.allow.length > 0 : peers.length === 0;
  if (!known) {
    throw new Error(
      `${what}, and this host does not know that host: name it under [peers] (NAME = ${formatAddress(address)})${gateway.tls === 'required' ? ', or its certificate in allow under [tls]' : ''}`,
    );
  }
  return gateway.tls === 'required';
}

function checkElsewhere({ gateway }: Config, name: string, uri: string): void {
  const here = parseNbdUri(exportUri(gateway.advertise, name, gateway.tls));
  if (formatNbdUri(parseNbdUri(uri)) !== formatNbdUri(here)) return;
  throw new Error(
    `the origin of disk ${name} is ${uri}, which is this host itself: set [gateway] advertise in xnbd.conf to an address of its own on each host`,
  );
}

function isAt(
  peer: { host: string; port: number },
  { host, port }: NbdAddress & { kind: 'tcp' | 'tls' },
): boolean {
  return peer.host.toLowerCase() === host.toLowerCase() && peer.port === port;
}
