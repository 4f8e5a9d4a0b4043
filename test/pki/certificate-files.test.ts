import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { certificatesIn, findCertificates } from '../../src/pki/certificate-files.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const none = { ca: null, crl: null, cert: null, key: null, clientCert: null, clientKey: null };

describe('places of certificates', () => {
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let root: string;
  beforeEach(async () => {
    scratch = await temporaryDirectory();
    root = scratch.path;
  });
  afterEach(() => scratch.remove());

  async function put(...paths: string[]): Promise<void> {
    for (const path of paths) {
      await mkdir(dirname(join(root, path)), { recursive: true });
      await writeFile(join(root, path), '');
    }
  }

  async function find(role: 'server' | 'client', named = {}): Promise<Record<string, string | null>> {
    const files = await findCertificates(role, { ...none, ...named }, root);
    const below = (path: string): string => path.replace(root, '');
    const { ca, crl, cert, key } = files;
    return { ca: below(ca), crl: crl === null ? null : below(crl), cert: below(cert), key: below(key) };
  }

  it("are libvirt's, when there are none", async () => {
    assert.deepEqual(await find('server'), {
      ca: '/etc/pki/CA/cacert.pem',
      crl: null,
      cert: '/etc/pki/libvirt/servercert.pem',
      key: '/etc/pki/libvirt/private/serverkey.pem',
    });
  });

  it("are libvirt's before our own, and those of the server where a client has none", async () => {
    await put('/etc/xnbd/pki/ca-cert.pem', '/etc/xnbd/pki/server-cert.pem', '/etc/xnbd/pki/client-cert.pem');
    assert.equal((await find('client')).cert, '/etc/xnbd/pki/client-cert.pem');
    await put('/etc/pki/CA/cacert.pem', '/etc/pki/CA/cacrl.pem', '/etc/pki/libvirt/servercert.pem');
    assert.deepEqual(await find('client'), {
      ca: '/etc/pki/CA/cacert.pem',
      crl: '/etc/pki/CA/cacrl.pem',
      cert: '/etc/pki/libvirt/servercert.pem',
      key: '/etc/pki/libvirt/private/serverkey.pem',
    });
    await put('/etc/pki/libvirt/clientcert.pem');
    assert.equal((await find('client')).key, '/etc/pki/libvirt/private/clientkey.pem');
  });

  it('are those that the configuration names', async () => {
    await put('/etc/pki/CA/cacert.pem', '/etc/pki/libvirt/clientcert.pem');
    const named = { cert: '/c', key: '/k' };
    assert.deepEqual(await find('client', named), { ca: '/etc/pki/CA/cacert.pem', crl: null, ...named });
    const both = { ...named, ca: '/ca', crl: '/crl', clientCert: '/cc', clientKey: '/ck' };
    assert.deepEqual(await find('client', both), { ca: '/ca', crl: '/crl', cert: '/cc', key: '/ck' });
    assert.deepEqual(await find('server', both), { ca: '/ca', crl: '/crl', ...named });
  });

  it("have QEMU's names in a directory", async () => {
    await put('/d/client-cert.pem', '/d/ca-crl.pem');
    const files = await certificatesIn(join(root, 'd'), 'client');
    assert.deepEqual(files, {
      ca: join(root, 'd/ca-cert.pem'),
      crl: join(root, 'd/ca-crl.pem'),
      cert: join(root, 'd/client-cert.pem'),
      key: join(root, 'd/client-key.pem'),
    });
  });
});
