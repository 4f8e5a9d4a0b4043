/** This host as a party to TLS, as its configuration has it. */
import { findCertificates, type NamedFiles, type Role } from './certificate-files.ts';
import { Credentials } from './credentials.ts';
import type { TlsParty } from './tls.ts';

/** `[tls]` of the configuration. */
export interface HostTls extends NamedFiles {
  allow: readonly string[];
}

export async function hostParty(role: Role, tls: HostTls): Promise<TlsParty> {
  return { credentials: new Credentials(await findCertificates(role, tls)), allow: tls.allow };
}

/**
 * The host as a server that others will come to.
 * @throws Error, one line, when its certificate is not in order or no peer is allowed.
 */
export async function serverParty(tls: HostTls): Promise<TlsParty> {
  const party = await hostParty('server', tls);
  await party.credentials.current();
  if (tls.allow.length > 0) return party;
  throw new Error(
    'TLS is required and nobody may come: name the certificates of the other hosts, allow = NAME, ... under [tls]',
  );
}

/**
 * Arguments that tell an `xnbd-export proxy` this host's certificate; none for an origin that does not ask.
 */
export async function originArguments(originUri: string, tls: HostTls): Promise<string[]> {
  if (!originUri.startsWith('nbds:')) return [];
  const { ca, crl, cert, key } = await findCertificates('client', tls);
  return [
    ...['--tls-ca', ca, '--tls-cert', cert, '--tls-key', key],
    ...(crl === null ? [] : ['--tls-crl', crl]),
    ...(tls.allow.length === 0 ? [] : ['--tls-allow', tls.allow.join(',')]),
  ];
}
