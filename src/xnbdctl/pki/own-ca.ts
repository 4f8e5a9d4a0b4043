/** Certificates for hosts whose administrator has no CA: what is made, and what is told of it. */
import type { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Config } from '../../config/config.ts';

/** Certificates that would be used in place of those that are about to be made, such as libvirt's. */
async function refuseOthers(directory: string, tls: Config['tls']): Promise<void> {
  const { findCertificates } = await import('../../pki/certificate-files.ts');
  const { ca } = await findCertificates('server', tls);
  if (dirname(ca) === resolve(directory) || !existsSync(ca)) return;
  throw new Error(
    `this host has certificates already, of the CA in ${ca}, and uses those: 'xnbdctl pki check' tells more`,
  );
}

/** @throws Error of one line */
export async function init(directory: string, { gateway, tls }: Config): Promise<void> {
  await refuseOthers(directory, tls);
  const { host } = gateway.advertise;
  const { initAuthority } = await import('../../pki/authority.ts');
  const { newCa } = await initAuthority(directory, host);
  const key = join(directory, 'ca/ca-key.pem');
  say(
    newCa
      ? `${key}: the key of the new CA; who has it can be any host: it stays here, and in your backup`
      : `${key}: the CA is kept`,
    `${join(directory, 'server-cert.pem')}: the certificate of ${host}, new`,
    'for each other host: xnbdctl pki host NAME',
  );
}

/** @param out a file, which must not be there. @throws Error of one line */
export async function makeForHost(directory: string, host: string, out: string): Promise<void> {
  const { issueBundle } = await import('../../pki/authority.ts');
  const bundle = await issueBundle(directory, host);
  try {
    await writeFile(out, bundle, { mode: 0o600, flag: 'wx' });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw new Error(`${out} is there already: remove it, or name another file with --out`);
  }
  say(
    `${out}: certificate and key of ${host}. Take it there by a safe way, and there: xnbdctl pki import ${out}`,
    `here, under [tls] in /etc/xnbd/xnbd.conf: allow = ${host}`,
  );
}

/** @throws Error of one line that names the file */
export async function importFile(directory: string, file: string, { gateway, tls }: Config): Promise<void> {
  await refuseOthers(directory, tls);
  const { host } = gateway.advertise;
  const { importBundle } = await import('../../pki/authority.ts');
  let certificate: X509Certificate;
  try {
    certificate = await importBundle(directory, await readFile(file, 'utf8'));
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`);
  }
  const { describeCertificate, isNamed } = await import('../../pki/trust.ts');
  say(
    `${join(directory, 'server-cert.pem')}: ${describeCertificate(certificate)}, until ${certificate.validTo}`,
  );
  if (!isNamed(certificate, host))
    say(
      `this host is '${host}' to others (advertise under [gateway]), and the certificate is not: set advertise, or have it made for '${host}'`,
    );
  say(`under [tls] in /etc/xnbd/xnbd.conf: allow = the names of the other hosts; then remove ${file}`);
}

function say(...lines: readonly string[]): void {
  process.stdout.write(lines.map((line) => `${line}\n`).join(''));
}
