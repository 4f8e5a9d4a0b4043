/** A CA and certificates for tests, made by openssl, laid out as QEMU, nbdkit and libnbd want them. */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface CertificateWishes {
  /** subjectAltName as openssl takes it; '' for none. Default: DNS:localhost, IP:127.0.0.1. */
  altName?: string;
  /** extendedKeyUsage; '' for none, which is fit for everything. Default: that. */
  usage?: string;
  /** openssl's form, YYYYMMDDHHMMSSZ. */
  notBefore?: string;
  notAfter?: string;
}

export class TestCa {
  readonly dir: string;
  readonly cert: string;

  private constructor(dir: string) {
    this.dir = dir;
    this.cert = join(dir, 'ca-cert.pem');
  }

  /** @param dir is made. */
  static async make(dir: string, name = 'test CA'): Promise<TestCa> {
    await mkdir(dir, { recursive: true });
    const ca = new TestCa(dir);
    await run('openssl', [
      ...['req', '-x509', '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
      ...['-keyout', join(dir, 'ca-key.pem'), '-out', ca.cert, '-subj', `/CN=${name}`, '-days', '30'],
      ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    ]);
    await writeFile(join(dir, 'index'), '');
    await writeFile(
      join(dir, 'ca.conf'),
      `[ca]\ndefault_ca = it\n[it]\ndatabase = ${dir}/index\nnew_certs_dir = ${dir}\ndefault_md = sha256\nrand_serial = yes\n` +
        `unique_subject = no\npolicy = any\ndefault_days = 30\ndefault_crl_days = 30\n[any]\ncommonName = optional\n`,
    );
    return ca;
  }

  /**
   * Makes a directory with ca-cert.pem, and one certificate under the names of server and client; one that is
   * there is renewed.
   */
  async issue(dir: string, commonName: string, wishes: CertificateWishes = {}): Promise<string> {
    await mkdir(dir, { recursive: true });
    const { altName = 'DNS:localhost,IP:127.0.0.1', usage = '', notBefore, notAfter } = wishes;
    const [key, request, cert, extensions] = ['key', 'csr', 'crt', 'ext'].map((end) =>
      join(dir, `new.${end}`),
    );
    await run('openssl', [
      ...['req', '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
      ...['-keyout', key!, '-out', request!, '-subj', `/CN=${commonName}`],
    ]);
    await writeFile(
      extensions!,
      `basicConstraints = CA:FALSE\nkeyUsage = digitalSignature\n` +
        (altName === '' ? '' : `subjectAltName = ${altName}\n`) +
        (usage === '' ? '' : `extendedKeyUsage = ${usage}\n`),
    );
    await this.#ca([
      ...['-in', request!, '-out', cert!, '-extfile', extensions!, '-notext'],
      ...(notBefore === undefined ? [] : ['-startdate', notBefore]),
      ...(notAfter === undefined ? [] : ['-enddate', notAfter]),
    ]);
    for (const role of ['server', 'client']) {
      await copyFile(key!, join(dir, `${role}-key.new`));
      await rename(join(dir, `${role}-key.new`), join(dir, `${role}-key.pem`));
      await copyFile(cert!, join(dir, `${role}-cert.new`));
      await rename(join(dir, `${role}-cert.new`), join(dir, `${role}-cert.pem`));
    }
    await copyFile(this.cert, join(dir, 'ca-cert.pem'));
    return dir;
  }

  /** Takes the certificate of a directory back, and writes the list of those to `crl`. */
  async revoke(dir: string, crl: string): Promise<void> {
    await this.#ca(['-revoke', join(dir, 'server-cert.pem')]);
    await this.#ca(['-gencrl', '-out', crl]);
  }

  async #ca(args: string[]): Promise<void> {
    const ca = ['-cert', this.cert, '-keyfile', join(this.dir, 'ca-key.pem')];
    await run('openssl', ['ca', '-batch', '-config', join(this.dir, 'ca.conf'), ...ca, ...args]);
  }
}
