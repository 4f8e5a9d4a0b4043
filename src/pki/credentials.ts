/**
 * This host's certificate, key and CA, as they are now: each TLS handshake asks for them, and files that were
 * replaced since are read again then. So a renewed certificate needs no restart, and connections that are
 * open know nothing of it.
 *
 * Which files those are may change, too: a key that is put in the place of another may be root's alone, and
 * then the gateway goes by its copy. So they are looked for anew when one of them has changed.
 *
 * Renewal replaces file after file. While what lies there does not fit together (the new certificate, still
 * the old key), what was read before is used on.
 */
import { readFile, stat } from 'node:fs/promises';
import { log } from '../log/log.ts';
import type { CertificateFiles } from './certificate-files.ts';

/** Contents of the files, as node:tls takes them: PEM. */
export interface Material {
  ca: Buffer;
  crl?: Buffer;
  cert: Buffer;
  key: Buffer;
}

export class Credentials {
  #files: CertificateFiles;
  readonly #look: (() => Promise<CertificateFiles>) | null;
  #material: Material | null = null;
  /** The state of the files that `#material` was read from. */
  #stamp = '';
  /** The state of the files that has been complained about. */
  #refused = '';

  /** @param look says which files they are by now; left out: always these */
  constructor(files: CertificateFiles, look: (() => Promise<CertificateFiles>) | null = null) {
    this.#files = files;
    this.#look = look;
  }

  get files(): CertificateFiles {
    return this.#files;
  }

  /**
   * What the next handshake uses.
   * @throws Error, one line, that names the file and what is wrong with it, as long as the files have never
   * been in order.
   */
  async current(): Promise<Material> {
    // The stamp first: what is replaced while we read is read again.
    let stamp = await stampOf(this.#files);
    const before = this.#material;
    if (before !== null && stamp === this.#stamp) return before;
    if (this.#look !== null) {
      this.#files = await this.#look();
      stamp = await stampOf(this.#files);
    }
    if (before !== null && (stamp === this.#stamp || stamp === this.#refused)) return before;
    try {
      const material = await readMaterial(this.files);
      if (before !== null)
        log.info(`the certificate ${this.files.cert} has been renewed`, { id: 'certificate-renewed' });
      this.#material = material;
      this.#stamp = stamp;
      return material;
    } catch (error) {
      if (before === null) throw error;
      this.#refused = stamp;
      log.warning(`${(error as Error).message}; what was there before is used on`, {
        id: 'certificate-faulty',
      });
      return before;
    }
  }
}

/** @throws Error, one line, naming the file. */
async function readMaterial(files: CertificateFiles): Promise<Material> {
  // One after the other: of several that are missing the first is named, always.
  const ca = await read(files.ca);
  const cert = await read(files.cert);
  const key = await read(files.key);
  const material: Material = { ca, cert, key, ...(files.crl !== null && { crl: await read(files.crl) }) };
  const { createSecureContext } = process.getBuiltinModule('node:tls');
  try {
    createSecureContext(material);
  } catch (error) {
    throw new Error(
      `${files.cert}, ${files.key} and ${files.ca} do not make a TLS identity (${(error as Error).message}): xnbdctl pki check says more`,
    );
  }
  return material;
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new Error(
      `${path} cannot be read (${(error as NodeJS.ErrnoException).code}): xnbdctl pki check says what TLS needs`,
    );
  }
}

/** Changes when a file is replaced, rewritten, or goes. */
async function stampOf(files: CertificateFiles): Promise<string> {
  const states = pathsOf(files).map(async (path) => {
    if (path === null) return '';
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
      return `${dev} ${ino} ${size} ${mtimeNs} ${ctimeNs}`;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code;
    }
  });
  return (await Promise.all(states)).join('\n');
}

function pathsOf({ ca, crl, cert, key }: CertificateFiles): (string | null)[] {
  return [ca, crl, cert, key];
}
