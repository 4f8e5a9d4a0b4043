/** What can be wrong with one certificate or key, each thing in one line. */
import { createPrivateKey, type X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import type { CertificateFiles } from './certificate-files.ts';
import { parseCertificates } from './trust.ts';

const OTHERS_MAY_WRITE = 0o022;
/** The group may read: services that are not root get keys that way. */
const OTHERS_MAY_READ = 0o037;

/** @param what it is good for. @returns none when that is a fault, which is added to `faults`. */
export async function readCertificates(
  path: string,
  what: string,
  faults: string[],
): Promise<X509Certificate[]> {
  const found = await readOrFault(path, what);
  if (typeof found === 'string') {
    faults.push(found);
    return [];
  }
  faults.push(...(await faultsOfMode(path, OTHERS_MAY_WRITE, 'changed', 'go-w')));
  try {
    return parseCertificates(found);
  } catch {
    faults.push(`${path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)`);
    return [];
  }
}

/** Its time. */
export function faultsOfCertificate(certificate: X509Certificate, path: string, now = new Date()): string[] {
  if (certificate.validToDate < now) return [`${path} has expired, ${certificate.validTo}: renew it`];
  if (certificate.validFromDate > now)
    return [`${path} is not valid before ${certificate.validFrom}: is the clock of this host right?`];
  return [];
}

export async function faultsOfKey(
  certificate: X509Certificate,
  { cert, key }: CertificateFiles,
): Promise<string[]> {
  const found = await readOrFault(key, `the key of ${cert}`);
  if (typeof found === 'string') return [found];
  const faults = await faultsOfMode(key, OTHERS_MAY_READ, 'read', '600');
  try {
    if (!certificate.checkPrivateKey(createPrivateKey(found)))
      faults.push(`${key} is not the key of ${cert}: has one of them been renewed without the other?`);
  } catch {
    faults.push(
      found.includes('ENCRYPTED')
        ? `${key} is encrypted, and nobody is there to type its passphrase: openssl pkey -in OLD -out NEW decrypts it`
        : `${key} holds no private key in PEM form`,
    );
  }
  return faults;
}

/** By one of the CA's certificates, or by way of those that lie in the file behind it. */
export function isSignedBy(
  leaf: X509Certificate,
  between: X509Certificate[],
  ca: X509Certificate[],
): boolean {
  let last = leaf;
  for (let length = 0; length <= between.length; length++) {
    if (ca.some((each) => hasSigned(each, last))) return true;
    const next = between.find((each) => each !== last && hasSigned(each, last));
    if (next === undefined) return false;
    last = next;
  }
  return false;
}

function hasSigned(issuer: X509Certificate, certificate: X509Certificate): boolean {
  return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

async function readOrFault(path: string, what: string): Promise<Buffer | string> {
  try {
    return await readFile(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return `${path} is missing: ${what}`;
    if (code === 'EACCES') return `${path} cannot be read by this user (uid ${process.getuid?.()}): ${what}`;
    return `${path} cannot be read (${code}): ${what}`;
  }
}

async function faultsOfMode(path: string, tooMuch: number, done: string, chmod: string): Promise<string[]> {
  const { mode } = await stat(path);
  if ((mode & tooMuch) === 0) return [];
  return [`${path} can be ${done} by others (mode 0${(mode & 0o777).toString(8)}): chmod ${chmod} ${path}`];
}
