/** This host as a party to TLS, as its configuration has it. */
import { open } from 'node:fs/promises';
import {
  type CertificateFiles,
  certificatesIn,
  findCertificates,
  type NamedFiles,
  type Role,
} from './certificate-files.ts';
import { Credentials } from './credentials.ts';
import type { TlsParty } from './tls.ts';

/** `[tls]` of the configuration. */
export interface HostTls extends NamedFiles {
  allow: readonly string[];
}

export async function hostParty(role: Role, tls: HostTls): Promise<TlsParty> {
  return { credentials: new Credentials(await findCertificates(role, tls)), allow: tls.allow };
}

/** Those that may be read: the originals, else copies of them (hand-certificates.ts). */
async function serverFiles(tls: HostTls, handed: string | undefined): Promise<CertificateFiles> {
  const files = await findCertificates('server', tls);
  if (handed === undefined || (await isReadable(files.key))) return files;
  const copies = await certificatesIn(handed, 'server');
  return (await isReadable(copies.key)) ? copies : files;
}

/** Opened, because access(2) knows nothing of AppArmor. */
async function isReadable(path: string): Promise<boolean> {
  try {
    await (await open(path)).close();
    return true;
  } catch {
    return false;
  }
}

/**
 * The host as a server that others will come to.
 * @param handed directory of copies, for one that may not read the originals
 * @throws Error, one line, when its certificate is not in order or no peer is allowed.
 */
export async function serverParty(tls: HostTls, handed?: string): Promise<TlsParty> {
  const look = (): Promise<CertificateFiles> => serverFiles(tls, handed);
  const party = { credentials: new Credentials(await look(), look), allow: tls.allow };
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
