import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, copyFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parseConfig } from '../../src/config/config.ts';
import { checkPki } from '../../src/pki/check.ts';
import { TestCa } from '../lab/host/certificates.ts';
import { installed } from '../lab/installed.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const run = promisify(execFile);
const xnbdctl = join(import.meta.dirname, '../../src/bin/xnbdctl.ts');

describe('pki check', function () {
  this.timeout(60_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let ca: TestCa;
  let dir: string;

  before(async function () {
    if (!installed('openssl')) this.skip();
    scratch = await temporaryDirectory();
    ca = await TestCa.make(join(scratch.path, 'ca'));
  });
  after(() => scratch.remove());
  let number = 0;
  beforeEach(async () => {
    dir = await ca.issue(join(scratch.path, `host${++number}`), 'a.example', { altName: 'DNS:a.example' });
  });

  const settings = (advertise = 'a.example', tls = ''): string =>
    `[gateway]\nadvertise = ${advertise}:10809\n[tls]\nca = ${dir}/ca-cert.pem\ncert = ${dir}/server-cert.pem\nkey = ${dir}/server-key.pem\n` +
    (tls === '' ? 'allow = b.example\n' : tls);

  async function faults(advertise?: string, tls?: string): Promise<string[]> {
    return (await checkPki(parseConfig(settings(advertise, tls), 'x.conf'))).faults;
  }

  async function onlyFault(why: RegExp, advertise?: string, tls?: string): Promise<void> {
    const found = await faults(advertise, tls);
    assert.equal(found.length, 1, found.join('\n'));
    assert.match(found[0]!, why);
  }

  it('finds nothing where nothing is wrong, and shows what to write into allow elsewhere', async () => {
    const { faults: found, notes } = await checkPki(parseConfig(settings(), 'x.conf'));
    assert.deepEqual(found, []);
    assert.match(
      notes.join('\n'),
      /server: \S+server-cert\.pem: a\.example, sha256:[0-9a-f]{64}, until .* GMT/,
    );
  });

  it('names what is missing', async () => {
    await rm(join(dir, 'server-key.pem'));
    await onlyFault(/server-key\.pem is missing: the key of/);
    await rm(join(dir, 'ca-cert.pem'));
    assert.match((await faults()).join('\n'), /ca-cert\.pem is missing: the CA/);
    await rm(join(dir, 'server-cert.pem'));
    assert.match(
      (await faults()).join('\n'),
      /server-cert\.pem is missing: this host's certificate as a server/,
    );
  });

  it('names what is no certificate, no key, or locked', async () => {
    await writeFile(join(dir, 'server-cert.pem'), 'hello');
    await onlyFault(/server-cert\.pem holds no certificate in PEM form/);
    await ca.issue(dir, 'a.example', { altName: 'DNS:a.example' });
    await writeFile(join(dir, 'server-key.pem'), 'hello');
    await onlyFault(/server-key\.pem holds no private key/);
    const args = ['-in', join(dir, 'client-key.pem'), '-aes256', '-passout', 'pass:secret'];
    await run('openssl', ['pkey', ...args, '-out', join(dir, 'server-key.pem')]);
    await onlyFault(/server-key\.pem is encrypted/);
  });

  it('names what cannot be read', async function () {
    if (process.getuid?.() === 0) {
      console.log('      (root can read everything)');
      this.skip();
    }
    await chmod(join(dir, 'server-key.pem'), 0);
    await onlyFault(/server-key\.pem cannot be read by this user/);
  });

  it('knows the time', async () => {
    const altName = 'DNS:a.example';
    await ca.issue(dir, 'a.example', { altName, notBefore: '20200101000000Z', notAfter: '20210101000000Z' });
    await onlyFault(/server-cert\.pem has expired, Jan {2}1 00:00:00 2021 GMT: renew it/);
    await ca.issue(dir, 'a.example', { altName, notBefore: '20980101000000Z', notAfter: '20990101000000Z' });
    await onlyFault(/server-cert\.pem is not valid before Jan {2}1 00:00:00 2098 GMT/);
  });

  it('knows whose key it is, and whose signature', async () => {
    const other = await TestCa.make(join(scratch.path, `other${number}`), 'another CA');
    const theirs = await other.issue(join(scratch.path, `theirs${number}`), 'a.example');
    await copyFile(join(theirs, 'server-key.pem'), join(dir, 'server-key.pem'));
    await onlyFault(/server-key\.pem is not the key of .*server-cert\.pem/);
    await ca.issue(dir, 'a.example', { altName: 'DNS:a.example' });
    await copyFile(other.cert, join(dir, 'ca-cert.pem'));
    await onlyFault(/server-cert\.pem is not signed by the CA in .*ca-cert\.pem \(it says CN=test CA\)/);
    // A CA of the same name is another one all the same.
    const namesake = await TestCa.make(join(scratch.path, `namesake${number}`), 'test CA');
    await copyFile(namesake.cert, join(dir, 'ca-cert.pem'));
    await onlyFault(/is not signed by the CA/);
    await copyFile(join(dir, 'server-cert.pem'), join(dir, 'ca-cert.pem'));
    assert.match((await faults()).join('\n'), /a\.example, sha256:\w+ is not the certificate of a CA/);
  });

  it('accepts a chain that lies in the file', async () => {
    const between = join(scratch.path, `between${number}`);
    const inner = await TestCa.make(between, 'inner CA');
    await run('openssl', [
      'req',
      '-new',
      '-key',
      join(between, 'ca-key.pem'),
      '-subj',
      '/CN=inner CA',
      '-out',
      join(between, 'csr'),
    ]);
    await writeFile(join(between, 'ext'), 'basicConstraints = critical,CA:TRUE\n');
    await run('openssl', [
      ...['x509', '-req', '-in', join(between, 'csr'), '-CA', ca.cert, '-CAkey', join(ca.dir, 'ca-key.pem')],
      ...[
        '-CAcreateserial',
        '-days',
        '9',
        '-extfile',
        join(between, 'ext'),
        '-out',
        join(between, 'crossed'),
      ],
    ]);
    await inner.issue(dir, 'a.example', { altName: 'DNS:a.example' });
    await copyFile(ca.cert, join(dir, 'ca-cert.pem'));
    await onlyFault(/is not signed by the CA/);
    const cert = join(dir, 'server-cert.pem');
    await writeFile(
      cert,
      (await readFile(cert, 'utf8')) + (await readFile(join(between, 'crossed'), 'utf8')),
    );
    assert.deepEqual(await faults(), []);
  });

  it('knows the name that other hosts go to', async () => {
    await onlyFault(/server-cert\.pem is of DNS:a\.example, not of 'b\.example'.*advertise/, 'b.example');
    await onlyFault(/not of '192\.0\.2\.1'/, '192.0.2.1');
    await ca.issue(dir, 'a.example', { altName: 'IP:192.0.2.1' });
    assert.deepEqual(await faults('192.0.2.1'), []);
    await ca.issue(dir, 'nobody', { altName: '' });
    await onlyFault(/is of nobody \(common name\), not of 'a\.example'/);
  });

  it('knows what a certificate is for', async () => {
    const altName = 'DNS:a.example';
    await ca.issue(dir, 'a.example', { altName, usage: 'clientAuth' });
    await onlyFault(/server-cert\.pem may not be used by a server/);
    await ca.issue(dir, 'a.example', { altName, usage: 'serverAuth' });
    await onlyFault(/server-cert\.pem may not be used by a client .*client-cert/);
    const client = await ca.issue(join(dir, 'client'), 'a.example', { usage: 'clientAuth' });
    const both = `allow = b\nclient-cert = ${client}/client-cert.pem\nclient-key = ${client}/client-key.pem\n`;
    assert.deepEqual(await faults('a.example', both), []);
    await ca.issue(dir, 'a.example', { altName, usage: 'serverAuth,clientAuth' });
    assert.deepEqual(await faults(), []);
  });

  it('knows who may read and write what', async () => {
    await chmod(join(dir, 'server-key.pem'), 0o644);
    await onlyFault(/server-key\.pem can be read by others \(mode 0644\): chmod 600/);
    await chmod(join(dir, 'server-key.pem'), 0o640);
    assert.deepEqual(await faults(), []);
    await chmod(join(dir, 'ca-cert.pem'), 0o666);
    await onlyFault(/ca-cert\.pem can be changed by others/);
  });

  it('says that nobody may come, and that nothing is encrypted', async () => {
    await onlyFault(/no other host may come: .*allow/, 'a.example', '\n');
    const off = settings().replace('[gateway]', '[gateway]\ntls = off');
    const { notes } = await checkPki(parseConfig(off, 'x.conf'));
    assert.match(notes[0]!, /tls = off .*in the clear/);
  });

  it('asks OpenSSL last: the CA took our own certificate back', async () => {
    const crl = join(dir, 'crl.pem');
    const gone = await ca.issue(join(dir, 'gone'), 'z');
    await ca.revoke(gone, crl);
    const tls = `allow = b\ncrl = ${crl}\n`;
    assert.deepEqual(await faults('a.example', tls), []);
    await ca.revoke(dir, crl);
    await onlyFault(/handshake of this host with itself does not succeed: .*CERT_REVOKED/, 'a.example', tls);
  });

  it('is `xnbdctl pki check`, and its exit code says whether anything is wrong', async () => {
    const config = join(dir, 'xnbd.conf');
    await writeFile(config, settings());
    const good = await run(process.execPath, [xnbdctl, '--config', config, 'pki', 'check']);
    assert.match(good.stdout, /^CA: .*\nserver: .*\nclient: .*\nall is well\n$/);
    await chmod(join(dir, 'server-key.pem'), 0o604);
    await assert.rejects(
      run(process.execPath, [xnbdctl, '--config', config, 'pki', 'check']),
      (error: Error & { code: number; stdout: string }) => {
        assert.equal(error.code, 1);
        assert.match(error.stdout, /^WRONG: .*can be read by others/m);
        return true;
      },
    );
  });
});
