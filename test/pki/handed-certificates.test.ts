/** A gateway that is no root, and certificates that are replaced under it. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { chmod, chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { handCertificates } from '../../src/pki/hand-certificates.ts';
import { serverParty } from '../../src/pki/host-party.ts';
import { TestCa } from '../lab/host/certificates.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const NOBODY = 65_534;

describe('certificates that are handed to the gateway', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let ca: TestCa;
  let host: string;
  let handed: string;

  before(function () {
    if (process.geteuid?.() === 0) return;
    console.log('      skipped: only root can become another user');
    this.skip();
  });
  beforeEach(async () => {
    directory = await temporaryDirectory();
    await chmod(directory.path, 0o755);
    ca = await TestCa.make(join(directory.path, 'ca'));
    host = join(directory.path, 'host');
    handed = join(directory.path, 'handed');
    await mkdir(handed);
    await chown(handed, NOBODY, NOBODY);
  });
  afterEach(() => directory.remove());

  /** Replaces the host's certificate; its key is of this mode. */
  async function issue(name: string, mode: number): Promise<void> {
    await ca.issue(host, name);
    for (const role of ['server', 'client']) await chmod(join(host, `${role}-key.pem`), mode);
  }

  const tls = () => ({
    ca: join(host, 'ca-cert.pem'),
    cert: join(host, 'server-cert.pem'),
    key: join(host, 'server-key.pem'),
    crl: null,
    clientCert: null,
    clientKey: null,
    allow: ['b.example'],
  });

  async function asNobody<T>(what: () => Promise<T>): Promise<T> {
    process.seteuid!(NOBODY);
    try {
      return await what();
    } finally {
      process.seteuid!(0);
    }
  }

  it('are gone by once a key comes that only root may read, and not before they are copied', async () => {
    await issue('first.example', 0o644);
    const { credentials } = await asNobody(() => serverParty(tls(), handed));
    const shown = async (): Promise<string> =>
      await asNobody(async () => new X509Certificate((await credentials.current()).cert).subject);
    assert.equal(await shown(), 'CN=first.example');
    await issue('second.example', 0o600);
    assert.equal(await shown(), 'CN=first.example');
    await handCertificates(tls(), handed);
    assert.equal(await shown(), 'CN=second.example');
    await issue('third.example', 0o600);
    await handCertificates(tls(), handed);
    assert.equal(await shown(), 'CN=third.example');
    // And back to the originals.
    await issue('fourth.example', 0o644);
    await handCertificates(tls(), handed);
    assert.equal(await shown(), 'CN=fourth.example');
  });
});
