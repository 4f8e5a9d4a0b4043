/**
 * What is wrong with this host's certificates, in words: each fault names the file and the way out. Where
 * none can be named, a TLS handshake of this host with itself says whether OpenSSL agrees.
 */
import type { X509Certificate } from 'node:crypto';
import { duplexPair } from 'node:stream';
import type { Config } from '../config/config.ts';
import { faultsOfCertificate, faultsOfKey, isSignedBy, readCertificates } from './certificate-faults.ts';
import { type CertificateFiles, findCertificates, type Role } from './certificate-files.ts';
import { Credentials } from './credentials.ts';
import { acceptTls, connectTls } from './tls.ts';
import { commonNameOf, describeCertificate, fingerprintOf, isNamed } from './trust.ts';

export interface PkiReport {
  /** One line for each thing that is wrong; none: all is well. */
  faults: string[];
  /** One line for each thing that an administrator may want to know. */
  notes: string[];
}

/** extendedKeyUsage, RFC 5280, 4.2.1.12. */
const usageOf: Readonly<Record<Role, string>> = { server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' };

export async function checkPki({ gateway, tls }: Pick<Config, 'gateway' | 'tls'>): Promise<PkiReport> {
  const faults: string[] = [];
  const notes: string[] = [];
  if (gateway.tls === 'off')
    notes.push('tls = off under [gateway]: disks travel in the clear, and no certificate is used');
  if (tls.allow.length === 0) {
    faults.push('no other host may come: name their certificates, allow = NAME, ... under [tls]');
  }
  const server = await findCertificates('server', tls);
  const client = await findCertificates('client', tls);
  const ca = await readCertificates(server.ca, 'the CA that signs the certificates of all hosts', faults);
  for (const certificate of ca) {
    faults.push(...faultsOfCertificate(certificate, server.ca));
    if (!certificate.ca)
      faults.push(`${server.ca}: ${describeCertificate(certificate)} is not the certificate of a CA`);
  }
  notes.push(`CA: ${server.ca}${server.crl === null ? '' : `, and ${server.crl} of what it took back`}`);
  for (const [role, files] of [
    ['server', server],
    ['client', client],
  ] as const) {
    const leaf = await checkRole(role, files, ca, faults);
    if (leaf === undefined) continue;
    notes.push(`${role}: ${files.cert}: ${describeCertificate(leaf)}, until ${leaf.validTo}`);
    if (role === 'server') faults.push(...faultsOfName(leaf, files, gateway.advertise.host));
  }
  if (faults.length === 0) faults.push(...(await faultsOfHandshake(server, client)));
  // One certificate in both roles has its faults once.
  return { faults: [...new Set(faults)], notes };
}

async function checkRole(
  role: Role,
  files: CertificateFiles,
  ca: X509Certificate[],
  faults: string[],
): Promise<X509Certificate | undefined> {
  const [leaf, ...between] = await readCertificates(
    files.cert,
    `this host's certificate as a ${role}`,
    faults,
  );
  if (leaf === undefined) return undefined;
  faults.push(...faultsOfCertificate(leaf, files.cert), ...(await faultsOfKey(leaf, files)));
  if (ca.length > 0 && !isSignedBy(leaf, between, ca)) {
    const issuer = leaf.issuer.replaceAll('\n', ', ');
    faults.push(
      `${files.cert} is not signed by the CA in ${files.ca} (it says ${issuer}): both hosts must have certificates of one CA`,
    );
  }
  // Despite its name this is extendedKeyUsage; a certificate without it is fit for everything.
  const usages = leaf.keyUsage as string[] | undefined;
  if (usages?.includes(usageOf[role]) === false) {
    faults.push(
      `${files.cert} may not be used by a ${role} (extendedKeyUsage): have it made for servers and clients${role === 'client' ? ', or name another with client-cert under [tls]' : ''}`,
    );
  }
  return leaf;
}

function faultsOfName(leaf: X509Certificate, files: CertificateFiles, host: string): string[] {
  if (isNamed(leaf, host)) return [];
  const names = leaf.subjectAltName ?? `${commonNameOf(leaf) ?? 'nobody'} (common name)`;
  return [
    `${files.cert} is of ${names}, not of '${host}', where other hosts are told to go (advertise under [gateway]): have it made with this subjectAltName, or set advertise`,
  ];
}

async function faultsOfHandshake(server: CertificateFiles, client: CertificateFiles): Promise<string[]> {
  const fingerprint = async ({ cert }: CertificateFiles): Promise<string[]> =>
    (await readCertificates(cert, '', [])).slice(0, 1).map(fingerprintOf);
  const [servers, clients] = [await fingerprint(server), await fingerprint(client)];
  const [near, far] = duplexPair();
  const accepted = acceptTls(far, { credentials: new Credentials(server), allow: clients });
  const connected = connectTls(near, 'localhost', { credentials: new Credentials(client), allow: servers });
  try {
    await Promise.all([accepted, connected]);
    return [];
  } catch (error) {
    return [`a TLS handshake of this host with itself does not succeed: ${(error as Error).message}`];
  } finally {
    near.destroy();
    far.destroy();
  }
}
