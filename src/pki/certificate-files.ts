/**
 * Where a host's certificates lie: where the configuration says, else where libvirt keeps its own, else in
 * /etc/xnbd/pki.
 *
 * A host is server to hosts that fetch its disks and client of those it fetches from. One certificate may do
 * for both (it must be fit for both then); libvirt and QEMU keep one for each.
 */
import { access } from 'node:fs/promises';
import { join } from 'node:path';

export type Role = 'server' | 'client';

/** What one role needs; paths. */
export interface CertificateFiles {
  /** A peer with a certificate signed by one of these may be trusted. */
  ca: string;
  /** Certificates that the CA took back; null: there is no such list. */
  crl: string | null;
  cert: string;
  key: string;
}

/** What the configuration names; null: it says nothing. A certificate comes with its key. */
export interface NamedFiles {
  ca: string | null;
  crl: string | null;
  cert: string | null;
  key: string | null;
  clientCert: string | null;
  clientKey: string | null;
}

interface Pair {
  cert: string;
  key: string;
}

/** One way to lay certificates out. */
interface Place extends Record<Role, Pair> {
  ca: string;
  crl: string;
}

const nothingNamed: NamedFiles = {
  ca: null,
  crl: null,
  cert: null,
  key: null,
  clientCert: null,
  clientKey: null,
};

/** https://libvirt.org/kbase/tlscerts.html; `root` stands before every path. */
function libvirtPlace(root: string): Place {
  const pki = join(root, '/etc/pki');
  const pair = (role: Role): Pair => ({
    cert: `${pki}/libvirt/${role}cert.pem`,
    key: `${pki}/libvirt/private/${role}key.pem`,
  });
  return {
    ca: `${pki}/CA/cacert.pem`,
    crl: `${pki}/CA/cacrl.pem`,
    server: pair('server'),
    client: pair('client'),
  };
}

/** A directory as QEMU (tls-creds-x509), nbdkit and libnbd take it. */
function directoryPlace(directory: string): Place {
  const pair = (role: Role): Pair => ({
    cert: join(directory, `${role}-cert.pem`),
    key: join(directory, `${role}-key.pem`),
  });
  return {
    ca: join(directory, 'ca-cert.pem'),
    crl: join(directory, 'ca-crl.pem'),
    server: pair('server'),
    client: pair('client'),
  };
}

/**
 * The files of a role, found now: for each thing the first place that has it. Where none has it the first
 * place's path is given, so that the error of reading it names what is missing.
 * @param root for tests: stands before the default places.
 */
export async function findCertificates(role: Role, named: NamedFiles, root = '/'): Promise<CertificateFiles> {
  return await inPlaces(role, named, [libvirtPlace(root), directoryPlace(join(root, '/etc/xnbd/pki'))]);
}

/** The files of a role in one directory with QEMU's names. */
export async function certificatesIn(directory: string, role: Role): Promise<CertificateFiles> {
  return await inPlaces(role, nothingNamed, [directoryPlace(directory)]);
}

async function inPlaces(
  role: Role,
  named: NamedFiles,
  places: [Place, ...Place[]],
): Promise<CertificateFiles> {
  const ca = named.ca ?? (await firstThere(places.map((place) => place.ca)));
  const beside = places.find((place) => place.ca === ca)?.crl;
  const crl = named.crl ?? (beside !== undefined && (await isThere(beside)) ? beside : null);
  return { ca, crl, ...(namedPair(role, named) ?? (await pairIn(role, places))) };
}

function namedPair(role: Role, named: NamedFiles): Pair | undefined {
  const { cert, key, clientCert, clientKey } = named;
  if (role === 'client' && clientCert !== null && clientKey !== null)
    return { cert: clientCert, key: clientKey };
  return cert !== null && key !== null ? { cert, key } : undefined;
}

async function pairIn(role: Role, places: [Place, ...Place[]]): Promise<Pair> {
  for (const place of places) {
    // A host whose one certificate is fit for both needs no second file.
    for (const pair of role === 'client' ? [place.client, place.server] : [place.server]) {
      if (await isThere(pair.cert)) return pair;
    }
  }
  return places[0][role];
}

async function firstThere(paths: string[]): Promise<string> {
  for (const path of paths) if (await isThere(path)) return path;
  return paths[0]!;
}

/** A file that may not be looked at is there: reading it tells the error. */
export async function isThere(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code !== 'ENOENT' && code !== 'ENOTDIR';
  }
}
