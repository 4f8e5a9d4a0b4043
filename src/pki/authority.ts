/**
 * A CA for hosts that have none: `xnbdctl pki init` makes it on one host, `pki host` makes certificates
 * for the others, and `pki import` puts one where it belongs. Made by openssl, because Node signs no
 * certificates.
 *
 * What is made is laid out as docs/tls.md has it, in one directory: ca-cert.pem, server-cert.pem and
 * server-key.pem, and on the host of the CA ca/ca-key.pem. A certificate and its key are made aside and
 * put in place by rename, so that a gateway that runs meets the old or the new ones.
 */
import { execFile } from 'node:child_process';
import { createPrivateKey, type X509Certificate } from 'node:crypto';
import { chmod, chown, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { groupId } from '../system/socket-group.ts';
import { faultsOfCertificate, isSignedBy } from './certificate-faults.ts';
import { isThere } from './certificate-files.ts';
import { parseCertificates } from './trust.ts';

const run = promisify(execFile);

const CA_DAYS = 3650;
/** Renewed long before: `xnbdctl pki check` tells when it ends. */
const HOST_DAYS = 825;
/** Of a common name (RFC 5280, ub-common-name). */
const LONGEST_COMMON_NAME = 64;
/** The gateway reads the key, and is not root. */
const KEY_GROUP = 'xnbd-gateway';

const KEY_FORM = /-----BEGIN PRIVATE KEY-----[^-]*-----END PRIVATE KEY-----/;

/** What a host needs, PEM. */
interface HostFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/**
 * Makes a CA in the directory, unless it has made one there before, and this host's certificate, new each
 * time. @returns whether the CA is new. @throws Error of one line
 */
export async function initAuthority(directory: string, host: string): Promise<{ newCa: boolean }> {
  checkHostName(host);
  const newCa = !(await isThere(caKeyOf(directory)));
  if (newCa) {
    if (await isThere(join(directory, 'ca-cert.pem')))
      throw new Error(
        `${directory}/ca-cert.pem is there, and its key is not: this host has a CA of another host ('xnbdctl pki host ${host}' there makes its certificate)`,
      );
    await makeCa(directory, host);
  }
  await putInPlace(directory, await issue(directory, host));
  return { newCa };
}

/**
 * A certificate of another host and all that goes with it, as one text.
 * @throws Error of one line where this host has no CA, or the name cannot be one of a host
 */
export async function issueBundle(directory: string, host: string): Promise<string> {
  checkHostName(host);
  const { ca, cert, key } = await issue(directory, host);
  return `${[ca, cert, key].map((pem) => pem.trim()).join('\n')}\n`;
}

/**
 * Puts what `issueBundle` has made into place. Replaces what came from the same CA.
 * @returns the certificate. @throws Error of one line; then nothing has changed.
 */
export async function importBundle(directory: string, text: string): Promise<X509Certificate> {
  const [ca, leaf] = certificatesOf(text);
  const key = KEY_FORM.exec(text)?.[0];
  if (ca?.ca !== true || leaf === undefined || key === undefined)
    throw new Error("this is no file that 'xnbdctl pki host' has made: it has a CA, a certificate and a key");
  if (!isSignedBy(leaf, [], [ca])) throw new Error('the certificate in it is not signed by the CA in it');
  if (!leaf.checkPrivateKey(createPrivateKey(key)))
    throw new Error('the key in it is not that of its certificate');
  const [fault] = faultsOfCertificate(leaf, 'the certificate in it');
  if (fault !== undefined) throw new Error(fault);
  const path = join(directory, 'ca-cert.pem');
  if (await isThere(path)) {
    const [here] = parseCertificates(await readFile(path));
    if (here?.fingerprint256 !== ca.fingerprint256)
      throw new Error(
        `${path} is of another CA: move it away first, if this host is to change to the new one`,
      );
  }
  await mkdir(directory, { recursive: true, mode: 0o755 });
  await putInPlace(directory, { ca: ca.toString(), cert: leaf.toString(), key: `${key}\n` });
  return leaf;
}

function certificatesOf(text: string): X509Certificate[] {
  try {
    return parseCertificates(Buffer.from(text));
  } catch {
    return [];
  }
}

const caKeyOf = (directory: string): string => join(directory, 'ca/ca-key.pem');

async function makeCa(directory: string, host: string): Promise<void> {
  await mkdir(join(directory, 'ca'), { recursive: true });
  await chmod(join(directory, 'ca'), 0o700);
  await inDraft(directory, async (draft) => {
    await openssl([
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-sha256'],
      ...['-days', String(CA_DAYS), '-subj', `/O=xNBD/CN=${commonName(`CA of ${host}`)}`],
      ...['-addext', 'basicConstraints=critical,CA:TRUE,pathlen:0'],
      ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
      ...['-keyout', join(draft, 'ca-key.pem'), '-out', join(draft, 'ca-cert.pem')],
    ]);
    await chmod(join(draft, 'ca-key.pem'), 0o600);
    await chmod(join(draft, 'ca-cert.pem'), 0o644);
    // The key last: with it the CA is there.
    await rename(join(draft, 'ca-cert.pem'), join(directory, 'ca-cert.pem'));
    await rename(join(draft, 'ca-key.pem'), caKeyOf(directory));
  });
}

async function issue(directory: string, host: string): Promise<HostFiles> {
  if (!(await isThere(caKeyOf(directory))))
    throw new Error(`there is no CA in ${directory}/ca: 'xnbdctl pki init' makes one, once, on one host`);
  return await inDraft(directory, async (draft) => {
    const [key, request, cert, extensions] = ['key', 'csr', 'crt', 'ext'].map((name) => join(draft, name));
    await openssl([
      ...['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
      ...['-subj', `/CN=${commonName(host)}`, '-keyout', key!, '-out', request!],
    ]);
    await writeFile(
      extensions!,
      `basicConstraints = CA:FALSE\nkeyUsage = digitalSignature\nextendedKeyUsage = serverAuth,clientAuth\n` +
        `subjectAltName = ${isIP(host) === 0 ? 'DNS' : 'IP'}:${host}\n`,
    );
    const ca = join(directory, 'ca-cert.pem');
    await openssl([
      ...['x509', '-req', '-in', request!, '-CA', ca, '-CAkey', caKeyOf(directory), '-sha256'],
      ...['-set_serial', `0x${await serial()}`, '-days', String(HOST_DAYS)],
      ...['-extfile', extensions!, '-out', cert!],
    ]);
    const [caText, certText, keyText] = await Promise.all(
      [ca, cert!, key!].map((path) => readFile(path, 'utf8')),
    );
    return { ca: caText!, cert: certText!, key: keyText! };
  });
}

async function serial(): Promise<string> {
  const { randomBytes } = await import('node:crypto');
  // Positive, and of 20 bytes at most (RFC 5280).
  return `01${randomBytes(15).toString('hex')}`;
}

async function putInPlace(directory: string, { ca, cert, key }: HostFiles): Promise<void> {
  const group = groupId([KEY_GROUP]);
  await inDraft(directory, async (draft) => {
    for (const [name, text, mode] of [
      ['ca-cert.pem', ca, 0o644],
      ['server-key.pem', key, group === undefined ? 0o600 : 0o640],
      ['server-cert.pem', cert, 0o644],
    ] as const) {
      await writeFile(join(draft, name), text, { mode: 0o600 });
      if (name === 'server-key.pem' && group !== undefined && process.getuid?.() === 0)
        await chown(join(draft, name), 0, group);
      await chmod(join(draft, name), mode);
      await rename(join(draft, name), join(directory, name));
    }
  });
}

/** A directory of its own, on the same file system, that nobody else looks into; gone afterwards. */
async function inDraft<T>(directory: string, act: (draft: string) => Promise<T>): Promise<T> {
  const draft = await mkdtemp(join(directory, '.draft-'));
  try {
    return await act(draft);
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

async function openssl(args: readonly string[]): Promise<void> {
  try {
    await run('openssl', args);
  } catch (error) {
    const { code, stderr } = error as NodeJS.ErrnoException & { stderr?: string };
    if (code === 'ENOENT')
      throw new Error('openssl is not installed, and makes the certificates: install it');
    throw new Error(`openssl ${args[0]} failed: ${(stderr ?? '').trim().split('\n').at(-1)}`);
  }
}

/** Nothing in a name means anything to openssl's forms. */
function checkHostName(host: string): void {
  const isName =
    /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$/;
  if (isIP(host) !== 0 || isName.test(host)) return;
  throw new Error(`'${host.slice(0, 80)}' is no host name and no address`);
}

function commonName(name: string): string {
  return name.slice(0, LONGEST_COMMON_NAME);
}
