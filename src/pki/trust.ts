/**
 * Whether the peer is the one expected: what a certificate that the CA has signed says, against the names
 * allowed.
 */
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';

/** `sha256:` and 64 small hexadecimal digits, the form of src/config/allowed-peers.ts. */
export function fingerprintOf(certificate: X509Certificate): string {
  return `sha256:${certificate.fingerprint256.replaceAll(':', '').toLowerCase()}`;
}

/** @param allow common names, DNS names or fingerprints. */
export function isAllowed(certificate: X509Certificate, allow: readonly string[]): boolean {
  const fingerprint = fingerprintOf(certificate);
  const commonName = commonNameOf(certificate);
  return allow.some(
    (each) =>
      each === fingerprint ||
      each === commonName ||
      certificate.checkHost(each, { subject: 'never', wildcards: false }) !== undefined,
  );
}

/** The certificate of a server that we went to by this name or address. */
export function isNamed(certificate: X509Certificate, host: string): boolean {
  // A scope (%eth0) is this host's own affair.
  const bare = host.replace(/%.*$/, '');
  return isIP(bare) !== 0
    ? certificate.checkIP(bare) !== undefined
    : certificate.checkHost(host) !== undefined;
}

/** For messages: what an administrator could write into `allow`. */
export function describeCertificate(certificate: X509Certificate): string {
  const name =
    commonNameOf(certificate)
      ?.replace(/[^\x20-\x7e]/g, '?')
      .slice(0, 100) ?? '(without one common name)';
  return `${name}, ${fingerprintOf(certificate)}`;
}

/**
 * What a certificate that the CA has signed is known by, also when it has been renewed: its common name, or
 * its fingerprint where it has none.
 */
export function identityOf(certificate: X509Certificate): string {
  return commonNameOf(certificate) ?? fingerprintOf(certificate);
}

/** undefined where there is none, or more than one. */
export function commonNameOf(certificate: X509Certificate): string | undefined {
  // Node 24: node:tls has no createSecureContext for good where toLegacyObject() was called before it was
  // loaded.
  process.getBuiltinModule('node:tls');
  const name: unknown = certificate.toLegacyObject().subject.CN;
  return typeof name === 'string' ? name : undefined;
}

/** @param pem one or more certificates. @throws Error when one cannot be parsed, or there is none. */
export function parseCertificates(pem: Buffer): X509Certificate[] {
  const blocks =
    pem.toString('latin1').match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw new Error('holds no certificate in PEM form');
  return blocks.map((block) => new X509Certificate(block));
}
