import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, readFile, truncate, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import { type Gateway, startGateway } from '../../src/gateway/gateway.ts';
import { readExactly } from '../../src/gateway/read-exactly.ts';
import { listenPlain } from '../../src/gateway/transport.ts';
import { writeLine } from '../../src/log/line.ts';
import { configureLog } from '../../src/log/log.ts';
import { NBD_OPTS_MAGIC, Option, OptionReply } from '../../src/nbd/constants.ts';
import { encodeAttachRequest } from '../../src/nbd/handshake/attach.ts';
import {
  decodeGreeting,
  decodeOptionReplyHeader,
  encodeOption,
  GREETING_LENGTH,
} from '../../src/nbd/handshake/option-framing.ts';
import { certificatesIn } from '../../src/pki/certificate-files.ts';
import { Credentials } from '../../src/pki/credentials.ts';
import { TestCa } from '../lab/host/certificates.ts';
import { installed } from '../lab/installed.ts';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { startRecordingRelay } from '../lab/net/recording-relay.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;
const NONE = Buffer.alloc(0);

describe('gateway with TLS', function () {
  this.timeout(60_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let dir: string;
  let ca: TestCa;
  let gateway: Gateway;
  let disk: ExportProcess;
  let port: number;
  /** Directories of certificates. */
  let host: string;
  let friend: string;
  let said: string[] = [];
  const cleanUp: (() => unknown)[] = [];

  before(async function () {
    if (!installed('openssl')) this.skip();
    configureLog({ sink: (_level, line) => said.push(line) });
    scratch = await temporaryDirectory();
    dir = scratch.path;
    ca = await TestCa.make(join(dir, 'ca'));
    host = await ca.issue(join(dir, 'host'), 'a.example');
    friend = await ca.issue(join(dir, 'friend'), 'b.example');
    const image = join(dir, 'secret-disk.img');
    await writeFile(image, Buffer.alloc(5 * MIB, 'what the guest wrote '));
    await truncate(image, 16 * MIB);
    disk = await startExport('target', 'secret-disk', join(dir, 'secret-disk.sock'), ['--image', image]);
  });
  after(async () => {
    configureLog({ sink: writeLine });
    await disk.end();
    await scratch.remove();
  });
  beforeEach(async () => {
    said = [];
    gateway = await startGateway({
      run: dir,
      tls: { credentials: new Credentials(await certificatesIn(host, 'server')), allow: ['b.example'] },
      handshakeLimitMs: 10_000,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    port = gateway.address.port;
  });
  afterEach(async () => {
    for (const step of cleanUp.splice(0).reverse()) await step();
    await gateway.close(0);
  });

  const uri = (certificates: string, at = port): string =>
    `nbds://127.0.0.1:${at}/secret-disk?tls-certificates=${certificates}`;

  async function dial(): Promise<Socket> {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    socket.on('error', () => undefined);
    cleanUp.push(() => socket.destroy());
    decodeGreeting(await readExactly(socket, GREETING_LENGTH));
    socket.write(Buffer.from([0, 0, 0, 3]));
    return socket;
  }

  async function ask(
    socket: Socket,
    option: number,
    data: Buffer = NONE,
  ): Promise<{ type: number; text: string }> {
    socket.write(encodeOption(option, data));
    let text = '';
    while (true) {
      const header = decodeOptionReplyHeader(await readExactly(socket, 20));
      assert.equal(header.option, option);
      if (header.length > 0) text += String(await readExactly(socket, header.length));
      if (header.type === OptionReply.ACK || header.type >= 2 ** 31) return { type: header.type, text };
    }
  }

  /** As far as TLS goes; a server that refuses may be noticed only later. */
  async function secured(certificates: string | null, session?: Buffer): Promise<TLSSocket> {
    const plain = await dial();
    assert.equal((await ask(plain, Option.STARTTLS)).type, OptionReply.ACK);
    const stream = connectTls({
      socket: plain,
      ca: await readFile(ca.cert),
      checkServerIdentity: () => undefined,
      ...(session !== undefined && { session }),
      ...(certificates !== null && {
        cert: await readFile(join(certificates, 'client-cert.pem')),
        key: await readFile(join(certificates, 'client-key.pem')),
      }),
    });
    stream.on('error', () => undefined);
    await new Promise((resolve) => stream.on('secureConnect', resolve).on('close', resolve));
    return stream;
  }

  /** Every byte that comes until the other side hangs up. */
  async function whatComes(socket: Socket): Promise<Buffer> {
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    // Not once(): it fails with an 'error', which comes with some ways to hang up.
    if (!socket.closed) await new Promise((resolve) => socket.on('close', resolve));
    return Buffer.concat(chunks);
  }

  const naming = (name: string): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(name.length);
    return Buffer.concat([length, Buffer.from(name), Buffer.alloc(2)]);
  };

  it('says nothing before TLS, and the same about what is here and what is not', async () => {
    const lease = { lease: '11111111-2222-4333-8444-555555555555', uuid: null, generation: 0 };
    const answers = new Set<string>();
    for (const [option, data] of [
      [Option.LIST, NONE],
      [Option.STRUCTURED_REPLY, NONE],
      [Option.GO, naming('secret-disk')],
      [Option.GO, naming('nowhere')],
      [Option.GO, Buffer.alloc(3)],
      [Option.INFO, naming('secret-disk')],
      [Option.SET_META_CONTEXT, naming('secret-disk')],
      [Option.XNBD_ATTACH, encodeAttachRequest({ ...lease, name: 'secret-disk' })],
      [4711, NONE],
    ] as const) {
      const socket = await dial();
      const { type, text } = await ask(socket, option, data);
      assert.equal(type, OptionReply.ERR_TLS_REQD, String(option));
      answers.add(text);
      assert.equal((await ask(socket, Option.ABORT)).type, OptionReply.ACK);
      assert.equal((await whatComes(socket)).length, 0);
    }
    assert.equal(answers.size, 1);
    for (const name of ['secret-disk', 'nowhere']) {
      const old = await dial();
      old.write(encodeOption(Option.EXPORT_NAME, Buffer.from(name)));
      assert.equal((await whatComes(old)).length, 0);
    }
    const endless = await dial();
    endless.write(Buffer.concat(Array.from({ length: 100 }, () => encodeOption(4711, NONE))));
    assert.ok((await whatComes(endless)).length < 2000);
    assert.equal((await ask(await dial(), Option.STARTTLS, Buffer.alloc(1))).type, OptionReply.ERR_INVALID);
  });

  it('serves nbdinfo and nbdcopy of a host that is named, and nothing of it can be read on the way', async function () {
    if (!installed('nbdinfo') || !installed('nbdcopy')) this.skip();
    const wire = await startRecordingRelay(port);
    cleanUp.push(() => wire.close());
    const { stdout } = await run('nbdinfo', ['--list', uri(friend, wire.port)]);
    assert.match(stdout, /secret-disk/);
    const info = JSON.parse((await run('nbdinfo', ['--json', uri(friend, wire.port)])).stdout) as {
      TLS: boolean;
      structured: boolean;
    };
    assert.deepEqual([info.TLS, info.structured], [true, true]);
    const map = JSON.parse(
      (await run('nbdinfo', ['--map', '--json', uri(friend, wire.port)])).stdout,
    ) as object[];
    assert.equal(map.length, 2);
    const copy = join(dir, 'copy');
    await run('nbdcopy', [uri(friend, wire.port), copy]);
    assert.ok((await readFile(copy)).equals(await readFile(join(dir, 'secret-disk.img'))));
    await assert.rejects(
      run('nbdcopy', [copy, uri(friend, wire.port)]),
      /read-only|not support write|permit/i,
    );
    assert.ok(wire.fromServer().length > 5 * MIB);
    for (const seen of [wire.fromServer(), wire.fromClient()]) {
      assert.ok(!seen.includes('secret'));
      assert.ok(!seen.includes('guest wrote'));
    }
  });

  it('serves qemu-img of a host that is named', async function () {
    if (!installed('qemu-img')) this.skip();
    const creds = ['--object', `tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir=${friend}`];
    const remote = `driver=nbd,host=localhost,port=${port},export=secret-disk,tls-creds=tls`;
    const copy = join(dir, 'qemu-copy');
    await run('qemu-img', ['convert', ...creds, '--image-opts', remote, '-O', 'raw', copy]);
    assert.ok((await readFile(copy)).equals(await readFile(join(dir, 'secret-disk.img'))));
    const image = ['--image-opts', `driver=raw,file.driver=file,file.filename=${copy}`];
    await run('qemu-img', [
      'compare',
      ...creds,
      ...image,
      `driver=raw,file.driver=nbd,file.host=localhost,file.port=${port},file.export=secret-disk,file.tls-creds=tls`,
    ]);
  });

  it('tells nobody else anything, with whatever certificate', async () => {
    const foreign = await TestCa.make(join(dir, 'foreign-ca'), 'test CA');
    const strangers: [string | null, RegExp][] = [
      [null, /it shows no certificate/],
      [
        await ca.issue(join(dir, 'other'), 'evil.example'),
        /evil\.example, sha256:[0-9a-f]{64}\) is not in allow/,
      ],
      [
        await foreign.issue(join(dir, 'foreign'), 'b.example'),
        /certificate of the other side is not accepted: UNABLE_TO/,
      ],
      [await ca.issue(join(dir, 'server-only'), 'b.example', { usage: 'serverAuth' }), /INVALID_PURPOSE/],
      [
        await ca.issue(join(dir, 'expired'), 'b.example', {
          notBefore: '20200101000000Z',
          notAfter: '20210101000000Z',
        }),
        /CERT_HAS_EXPIRED/,
      ],
      [
        await ca.issue(join(dir, 'two-names'), 'b.example/CN=evil.example', { altName: '' }),
        /is not in allow/,
      ],
    ];
    for (const [certificates, why] of strangers) {
      said = [];
      const stream = await secured(certificates);
      for (const option of [Option.LIST, Option.STRUCTURED_REPLY]) stream.write(encodeOption(option, NONE));
      stream.write(encodeOption(Option.GO, naming('secret-disk')));
      assert.equal((await whatComes(stream)).length, 0, String(certificates));
      assert.match(said.join('\n'), why);
      if (!installed('nbdinfo')) continue;
      await assert.rejects(
        run('nbdinfo', ['--list', certificates === null ? `nbds://127.0.0.1:${port}` : uri(certificates)]),
        (error: Error & { stdout: string; stderr: string }) => {
          assert.doesNotMatch(error.stdout + error.stderr.replaceAll(/nbds:\S+/g, ''), /secret-disk/);
          return true;
        },
      );
    }
    assert.equal((await ask(await secured(friend), Option.LIST)).type, OptionReply.ACK);
  });

  it('refuses the certificate that the CA took back', async () => {
    const files = await certificatesIn(host, 'server');
    const crl = join(dir, 'crl.pem');
    const lost = await ca.issue(join(dir, 'lost'), 'b.example');
    await ca.revoke(lost, crl);
    await gateway.close(0);
    gateway = await startGateway({
      run: dir,
      tls: { credentials: new Credentials({ ...files, crl }), allow: ['b.example'] },
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    port = gateway.address.port;
    const stream = await secured(lost);
    stream.write(encodeOption(Option.LIST, NONE));
    assert.equal((await whatComes(stream)).length, 0);
    assert.match(said.join('\n'), /CERT_REVOKED/);
    assert.equal((await ask(await secured(friend), Option.LIST)).type, OptionReply.ACK);
  });

  it('ends with a client that says more before TLS than it was asked (CVE-2021-3716)', async () => {
    const injected = await dial();
    const options = [Option.STARTTLS, Option.STRUCTURED_REPLY, Option.LIST];
    injected.write(Buffer.concat(options.map((option) => encodeOption(option, NONE))));
    assert.equal((await whatComes(injected)).length, 0, 'not even the answer to STARTTLS');
    const late = await dial();
    assert.equal((await ask(late, Option.STARTTLS)).type, OptionReply.ACK);
    late.write(encodeOption(Option.LIST, NONE));
    const answer = await whatComes(late);
    // An alert of TLS, if anything.
    assert.ok(answer.length < 20 && !answer.includes('secret'));
    const inside = await secured(friend);
    // TLS within TLS there is not; nor has anything been agreed yet.
    assert.equal((await ask(inside, Option.STARTTLS)).type, OptionReply.ERR_UNSUP);
    assert.equal(
      (await ask(inside, Option.SET_META_CONTEXT, naming('secret-disk'))).type,
      OptionReply.ERR_INVALID,
    );
  });

  it('shows out who begins TLS and goes no further', async () => {
    await gateway.close(0);
    gateway = await startGateway({
      run: dir,
      tls: { credentials: new Credentials(await certificatesIn(host, 'server')), allow: ['b.example'] },
      handshakeLimitMs: 300,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    port = gateway.address.port;
    const silent = await dial();
    assert.equal((await ask(silent, Option.STARTTLS)).type, OptionReply.ACK);
    const half = await dial();
    assert.equal((await ask(half, Option.STARTTLS)).type, OptionReply.ACK);
    half.write(Buffer.from([22, 3, 1, 2, 0, 1]));
    const inside = await secured(friend);
    for (const socket of [silent, half, inside]) assert.equal((await whatComes(socket)).length, 0);
  });

  it('resumes no session: a client that comes again shows its certificate again', async () => {
    let session: Buffer | undefined;
    for (let visit = 0; visit < 3; visit++) {
      const stream = await secured(friend, session);
      stream.on('session', (given: Buffer) => {
        session = given;
      });
      assert.equal((await ask(stream, Option.GO, naming('secret-disk'))).type, OptionReply.ACK);
      assert.equal(stream.isSessionReused(), false);
      session ??= stream.getSession();
      stream.destroy();
    }
    assert.ok(session !== undefined);
    assert.equal((await whatComes(await secured(null, session))).length, 0);
  });

  it('survives whatever comes for TLS', async () => {
    for (let length = 1; length < 400; length = length * 2 + 1) {
      const socket = await dial();
      assert.equal((await ask(socket, Option.STARTTLS)).type, OptionReply.ACK);
      const bytes = Buffer.alloc(length, length);
      bytes.set([22, 3, 1, length >> 8, length & 255].slice(0, length));
      socket.end(bytes);
      await whatComes(socket);
    }
    const absurd = await secured(friend);
    const header = Buffer.alloc(16);
    header.writeBigUInt64BE(NBD_OPTS_MAGIC);
    header.writeUInt32BE(0xffffffff, 12);
    absurd.write(header);
    assert.equal(decodeOptionReplyHeader(await readExactly(absurd, 20)).type, OptionReply.ERR_TOO_BIG);
    await whatComes(absurd);
    assert.equal((await ask(await secured(friend), Option.LIST)).type, OptionReply.ACK);
  });

  it('shows a renewed certificate to the next, while those that are here stay', async () => {
    const before = await secured(friend);
    assert.equal((await ask(before, Option.GO, naming('secret-disk'))).type, OptionReply.ACK);
    const fingerprint = (stream: TLSSocket) => stream.getPeerX509Certificate()?.fingerprint256;
    const old = join(dir, 'old');
    await ca.issue(old, 'a.example');
    for (const file of ['cert', 'key'])
      await copyFile(join(host, `server-${file}.pem`), join(old, `server-${file}.pem`));
    await ca.issue(host, 'a.example');
    // Half of the renewal: the new certificate and still the old key.
    await copyFile(join(host, 'server-key.pem'), join(dir, 'new-key'));
    await copyFile(join(old, 'server-key.pem'), join(host, 'server-key.pem'));
    const meanwhile = await secured(friend);
    assert.equal(fingerprint(meanwhile), fingerprint(before));
    assert.match(said.join('\n'), /what was there before is used on/);
    await copyFile(join(dir, 'new-key'), join(host, 'server-key.pem'));
    const after = await secured(friend);
    assert.notEqual(fingerprint(after), fingerprint(before));
    assert.match(said.join('\n'), /has been renewed/);
    const read = Buffer.alloc(28);
    read.writeUInt32BE(0x25609513);
    read.writeUInt32BE(4096, 24);
    before.write(read);
    const reply = await readExactly(before, 16 + 4096);
    assert.ok(reply.subarray(16).equals(Buffer.alloc(4096, 'what the guest wrote ')));
  });
});
