/** `xnbdctl pki init`, `host`, `import`: two hosts without a CA have certificates that are well. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { promisify } from 'node:util';
import { importBundle, initAuthority, issueBundle } from '../../src/pki/authority.ts';
import { certificatesIn } from '../../src/pki/certificate-files.ts';
import { Credentials } from '../../src/pki/credentials.ts';
import { acceptTls, connectTls } from '../../src/pki/tls.ts';
import { installed } from '../lab/installed.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const run = promisify(execFile);
const xnbdctl = join(import.meta.dirname, '../../src/bin/xnbdctl.ts');

describe('certificates of our own CA', function () {
  this.timeout(60_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let [a, b] = ['', ''];

  beforeEach(async function () {
    if (!installed('openssl')) this.skip();
    scratch = await temporaryDirectory();
    [a, b] = [join(scratch.path, 'a'), join(scratch.path, 'b')];
  });
  afterEach(() => scratch.remove());

  const certificate = async (directory: string): Promise<X509Certificate> =>
    new X509Certificate(await readFile(join(directory, 'server-cert.pem')));
  const mode = async (...path: string[]): Promise<string> =>
    ((await stat(join(...path))).mode & 0o777).toString(8);

  it('are made on one host, brought to the other, and each then finds all well', async () => {
    const config = async (directory: string, host: string, allow: string): Promise<string> => {
      const path = join(scratch.path, `${host}.conf`);
      const tls = `ca = ${directory}/ca-cert.pem\ncert = ${directory}/server-cert.pem\nkey = ${directory}/server-key.pem`;
      await writeFile(path, `[gateway]\nadvertise = ${host}:10809\n[tls]\n${tls}\nallow = ${allow}\n`);
      return path;
    };
    const [onA, onB] = [await config(a, 'a.example', 'b.example'), await config(b, 'b.example', 'a.example')];
    const bundle = join(scratch.path, 'b.pem');
    const pki = async (of: string, ...args: string[]): Promise<string> =>
      (await run(process.execPath, [xnbdctl, '--config', of, 'pki', ...args])).stdout;
    assert.match(
      await pki(onA, 'init', '--dir', a),
      /the key of the new CA.*\n.*certificate of a\.example, new\n/,
    );
    const told = await pki(onA, 'host', 'b.example', '--dir', a, '--out', bundle);
    assert.match(told, /xnbdctl pki import .*b\.pem\n.*: allow = b\.example\n$/);
    assert.equal(await mode(bundle), '600');
    await assert.rejects(pki(onA, 'host', 'b.example', '--dir', a, '--out', bundle), /is there already/);
    assert.match(await pki(onB, 'import', bundle, '--dir', b), /b\.example, sha256:[0-9a-f]{64}, until/);
    for (const host of [onA, onB]) assert.match(await pki(host, 'check'), /^all is well$/m);
    const none = pki(onA, 'import', onA, '--dir', a);
    await assert.rejects(none, /a\.example\.conf: this is no file that 'xnbdctl pki host' has made/);
    // Where certificates of another place are used, ours would lie there for nothing.
    await assert.rejects(pki(onA, 'init', '--dir', join(scratch.path, 'c')), /has certificates already/);
  });

  it('let the hosts meet by TLS 1.3, each by its name, and no host of another CA', async () => {
    await initAuthority(a, 'a.example');
    await importBundle(b, await issueBundle(a, 'b.example'));
    const c = join(scratch.path, 'c');
    await initAuthority(c, 'b.example');
    const meet = async (client: string): Promise<string> => {
      const [near, far] = duplexPair();
      const accepted = acceptTls(far, {
        credentials: new Credentials(await certificatesIn(a, 'server')),
        allow: ['b.example'],
      });
      const connected = connectTls(near, 'a.example', {
        credentials: new Credentials(await certificatesIn(client, 'client')),
        allow: [],
      });
      try {
        const [{ identity }] = await Promise.all([accepted, connected]);
        return identity;
      } finally {
        for (const each of [near, far]) each.destroy();
        await Promise.allSettled([accepted, connected]);
      }
    };
    assert.equal(await meet(b), 'b.example');
    await assert.rejects(meet(c));
  });

  it('say what they are for, and to openssl, too', async () => {
    await initAuthority(a, 'a.example');
    const { stdout } = await run('openssl', [
      'verify',
      '-x509_strict',
      '-CAfile',
      join(a, 'ca-cert.pem'),
      join(a, 'server-cert.pem'),
    ]);
    assert.match(stdout, /: OK\n$/);
    const leaf = await certificate(a);
    assert.equal(leaf.subjectAltName, 'DNS:a.example');
    assert.equal(leaf.ca, false);
    assert.deepEqual(leaf.keyUsage, ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
    assert.ok(new X509Certificate(await readFile(join(a, 'ca-cert.pem'))).ca);
    await importBundle(b, await issueBundle(a, '2001:db8::1'));
    assert.match((await certificate(b)).subjectAltName!, /^IP Address:2001:DB8:/);
    await issueBundle(a, `${'long'.repeat(15)}.${'name'.repeat(15)}.example`);
  });

  it('have keys that nobody else reads, and nothing is left of the making', async () => {
    await initAuthority(a, 'a.example');
    await importBundle(b, await issueBundle(a, 'b.example'));
    assert.deepEqual([await mode(a, 'ca'), await mode(a, 'ca/ca-key.pem')], ['700', '600']);
    for (const directory of [a, b]) {
      assert.match(await mode(directory, 'server-key.pem'), /^6[04]0$/);
      assert.equal(await mode(directory, 'server-cert.pem'), '644');
    }
    assert.deepEqual((await readdir(a)).sort(), ['ca', 'ca-cert.pem', 'server-cert.pem', 'server-key.pem']);
    assert.deepEqual((await readdir(b)).sort(), ['ca-cert.pem', 'server-cert.pem', 'server-key.pem']);
  });

  it('are renewed by the same words, and the CA stays', async () => {
    assert.deepEqual(await initAuthority(a, 'a.example'), { newCa: true });
    const [ca, before] = [await readFile(join(a, 'ca-cert.pem'), 'utf8'), await certificate(a)];
    assert.deepEqual(await initAuthority(a, 'a.example'), { newCa: false });
    assert.equal(await readFile(join(a, 'ca-cert.pem'), 'utf8'), ca);
    assert.notEqual((await certificate(a)).serialNumber, before.serialNumber);
    await importBundle(b, await issueBundle(a, 'b.example'));
    await importBundle(b, await issueBundle(a, 'b.example'));
  });

  it('are not put over those of another CA, nor taken from what does not fit together', async () => {
    await initAuthority(a, 'a.example');
    const other = join(scratch.path, 'other');
    await initAuthority(other, 'other.example');
    const [ours, theirs] = [await issueBundle(a, 'b.example'), await issueBundle(other, 'b.example')];
    await importBundle(b, ours);
    const before = await readFile(join(b, 'server-key.pem'), 'utf8');
    await assert.rejects(importBundle(b, theirs), /ca-cert\.pem is of another CA: move it away first/);
    const keyAt = (text: string): number => text.indexOf('-----BEGIN PRIVATE KEY');
    const mixed = ours.slice(0, keyAt(ours)) + theirs.slice(keyAt(theirs));
    await assert.rejects(importBundle(b, mixed), /the key in it is not that of its certificate/);
    const caAt = (text: string): number => text.indexOf('-----END CERTIFICATE');
    const forged = theirs.slice(0, caAt(theirs)) + ours.slice(caAt(ours));
    await assert.rejects(importBundle(b, forged), /not signed by the CA in it/);
    await assert.rejects(importBundle(b, ''), /no file that 'xnbdctl pki host' has made/);
    assert.equal(await readFile(join(b, 'server-key.pem'), 'utf8'), before);
    await assert.rejects(
      initAuthority(b, 'b.example'),
      /has a CA of another host \('xnbdctl pki host b\.example' there/,
    );
  });

  it('are made for names of hosts alone', async () => {
    await mkdir(a);
    for (const name of [
      '',
      'b.example/CN=a',
      'x, DNS:evil',
      '-rand',
      'a..b',
      '*.example',
      'b\nc',
      'a'.repeat(254),
    ])
      await assert.rejects(initAuthority(a, name), /is no host name and no address/, name);
    await assert.rejects(issueBundle(a, 'b.example'), /there is no CA in .*: 'xnbdctl pki init' makes one/);
    assert.deepEqual(await readdir(a), []);
  });
});
