/** A proxy whose origin is reached by TLS: other servers, our gateway, and those that only pretend. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { OriginConnection } from '../../../src/client/connection.ts';
import { type Gateway, startGateway } from '../../../src/gateway/gateway.ts';
import { readExactly } from '../../../src/gateway/read-exactly.ts';
import { listenPlain } from '../../../src/gateway/transport.ts';
import { writeLine } from '../../../src/log/line.ts';
import { configureLog } from '../../../src/log/log.ts';
import { Option, OptionReply } from '../../../src/nbd/constants.ts';
import { encodeGreeting, encodeOptionReply } from '../../../src/nbd/handshake/option-framing.ts';
import { parseNbdUri } from '../../../src/nbd/uri.ts';
import { certificatesIn } from '../../../src/pki/certificate-files.ts';
import { Credentials } from '../../../src/pki/credentials.ts';
import type { TlsParty } from '../../../src/pki/tls.ts';
import { TestCa } from '../../lab/host/certificates.ts';
import { installed } from '../../lab/installed.ts';
import { type Client, connectClient } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { freePort } from '../../lab/net/free-port.ts';
import { startRecordingRelay } from '../../lab/net/recording-relay.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;

describe('an origin behind TLS', function () {
  this.timeout(60_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let dir: string;
  let ca: TestCa;
  let image: string;
  let content: Buffer;
  /** Directories of certificates: of the host with the origin, and of the host that fetches. */
  let origin: string;
  let here: string;
  const cleanUp: (() => unknown)[] = [];

  before(async function () {
    if (!installed('openssl')) this.skip();
    configureLog({ sink: () => undefined });
    scratch = await temporaryDirectory();
    dir = scratch.path;
    ca = await TestCa.make(join(dir, 'ca'));
    origin = await ca.issue(join(dir, 'origin'), 'a.example');
    here = await ca.issue(join(dir, 'here'), 'b.example');
    image = join(dir, 'origin.img');
    await writeFile(
      image,
      Buffer.concat([Buffer.alloc(3 * MIB, 'what the guest wrote '), randomBytes(3 * MIB)]),
    );
    await truncate(image, 8 * MIB);
    content = await readFile(image);
  });
  after(async () => {
    configureLog({ sink: writeLine });
    await scratch.remove();
  });
  let number = 0;
  afterEach(async () => {
    for (const step of cleanUp.splice(0).reverse()) await step();
  });

  /** Starts a foreign server, and waits until it can be reached. */
  async function serve(program: string, args: string[], port: number): Promise<void> {
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    const gone = once(child, 'exit');
    cleanUp.push(async () => {
      child.kill('SIGKILL');
      await gone;
    });
    for (let tries = 0; ; tries++) {
      const socket = connect(port, '127.0.0.1');
      const reached = await new Promise((resolve) => {
        socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
      });
      socket.destroy();
      if (reached === true) return;
      assert.ok(tries < 500 && child.exitCode === null, `${program} does not listen`);
      await sleep(10);
    }
  }

  async function startProxy(uri: string, certificates = here, ...more: string[]): Promise<ExportProcess> {
    const name = `p${++number}`;
    const proxy = await startExport('proxy', name, join(dir, `${name}.sock`), [
      ...['--image', join(dir, `${name}.img`), '--origin', uri, '--takeover', 'now'],
      ...['--tls-dir', certificates, ...more],
    ]);
    cleanUp.push(() => proxy.end());
    return proxy;
  }

  async function arrives(proxy: ExportProcess): Promise<void> {
    const client: Client = await connectClient(proxy.uri);
    cleanUp.push(() => client.disconnect());
    assert.ok((await client.read(5 * MIB, 65536)).equals(content.subarray(5 * MIB, 5 * MIB + 65536)));
    await proxy.until((status) => status.state === 'serving', 30_000);
    assert.ok((await client.read(0, 8 * MIB)).equals(content));
  }

  async function party(certificates = here, allow: string[] = []): Promise<TlsParty> {
    return { credentials: new Credentials(await certificatesIn(certificates, 'client')), allow };
  }

  const nbdkit = (port: number, ...tls: string[]): Promise<void> =>
    serve(
      'nbdkit',
      ['-f', '--exit-with-parent', '-i', '127.0.0.1', '-p', String(port), ...tls, 'file', image],
      port,
    );

  it('nbdkit, which wants certificates of both sides', async function () {
    if (!installed('nbdkit')) this.skip();
    const port = await freePort();
    await nbdkit(port, '--tls=require', '--tls-verify-peer', `--tls-certificates=${origin}`);
    await arrives(await startProxy(`nbds://127.0.0.1:${port}/`));
    const foreign = await TestCa.make(join(dir, 'foreign-ca'));
    await foreign.issue(join(dir, 'foreign'), 'b.example');
    await assert.rejects(startProxy(`nbds://127.0.0.1:${port}/`, join(dir, 'foreign')), /certificate/);
  });

  it('qemu-nbd, which wants certificates of both sides', async function () {
    if (!installed('qemu-nbd')) this.skip();
    const port = await freePort();
    const creds = `tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir=${origin}`;
    await serve(
      'qemu-nbd',
      [
        ...['--object', creds, '--tls-creds', 'tls', '-t', '-e', '8', '-b', '127.0.0.1', '-p', String(port)],
        ...['-x', 'disk', '-f', 'raw', '-r', image],
      ],
      port,
    );
    await arrives(await startProxy(`nbds://localhost:${port}/disk`));
  });

  it('a whole relocation over the gateway: nothing of the disk can be read on the way', async () => {
    const source = join(dir, 'source.img');
    await writeFile(source, content);
    const target = await startExport('target', 'disk', join(dir, 'disk.sock'), ['--image', source]);
    cleanUp.push(() => target.end());
    const gateway: Gateway = await startGateway({
      run: dir,
      tls: { credentials: new Credentials(await certificatesIn(origin, 'server')), allow: ['b.example'] },
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    cleanUp.push(() => gateway.close(0));
    const wire = await startRecordingRelay(gateway.address.port);
    cleanUp.push(() => wire.close());
    await arrives(await startProxy(`nbds://127.0.0.1:${wire.port}/disk`));
    const down = wire.fromServer();
    const up = wire.fromClient();
    // All of it went over the wire, so what is looked for below would have been there.
    assert.ok(down.length > 6 * MIB, `${down.length} bytes`);
    // 32 bytes of many a block, which no cipher gives by chance.
    for (let block = 0; block < 6 * MIB; block += 15 * 4096) {
      assert.ok(!down.includes(content.subarray(block, block + 32)), `block at ${block} is in the clear`);
    }
    for (const text of ['guest wrote', 'disk', 'base:allocation']) {
      assert.ok(!down.includes(text) && !up.includes(text), `${text} is in the clear`);
    }
    // The same reading finds it all where there is no TLS: the test can fail.
    const plainGateway = await startGateway({
      run: dir,
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    cleanUp.push(() => plainGateway.close(0));
    const plainWire = await startRecordingRelay(plainGateway.address.port);
    cleanUp.push(() => plainWire.close());
    const again = await startExport('target', 'again', join(dir, 'again.sock'), [
      '--image',
      image,
      '--read-only',
    ]);
    cleanUp.push(() => again.end());
    const client = await connectClient(`nbd://127.0.0.1:${plainWire.port}/again`);
    await client.read(4096, 4096);
    client.disconnect();
    assert.ok(plainWire.fromServer().includes(content.subarray(4096, 4128)));
  });

  it('a server of another name is not trusted, unless it is allowed by name or fingerprint', async function () {
    if (!installed('nbdkit')) this.skip();
    const port = await freePort();
    const elsewhere = await ca.issue(join(dir, 'elsewhere'), 'c.example', { altName: 'DNS:c2.example' });
    await nbdkit(port, '--tls=require', `--tls-certificates=${elsewhere}`);
    const address = parseNbdUri(`nbds://127.0.0.1:${port}/`);
    await assert.rejects(
      OriginConnection.connect({ address, tls: await party() }),
      /c\.example, sha256:[0-9a-f]{64}\) is neither of '127\.0\.0\.1' nor in allow/,
    );
    const { stdout } = await run('openssl', [
      ...['x509', '-in', join(elsewhere, 'server-cert.pem'), '-noout', '-fingerprint', '-sha256'],
    ]);
    const fingerprint = `sha256:${stdout.trim().split('=')[1]!.replaceAll(':', '').toLowerCase()}`;
    for (const allowed of ['c.example', 'c2.example', fingerprint]) {
      const tls = await party(here, [allowed]);
      (await OriginConnection.connect({ address, tls })).disconnect();
    }
    const clientOnly = await ca.issue(join(dir, 'client-only'), 'd', { usage: 'clientAuth' });
    const other = await freePort();
    await nbdkit(other, '--tls=require', `--tls-certificates=${clientOnly}`);
    await assert.rejects(
      OriginConnection.connect({ address: parseNbdUri(`nbds://127.0.0.1:${other}/`), tls: await party() }),
      /INVALID_PURPOSE/,
    );
  });

  it('a server that has no TLS gets not one request (CVE-2019-14842)', async function () {
    if (!installed('nbdkit')) this.skip();
    for (const tls of [['--tls=off'], ['--oldstyle'], ['--mask-handshake=0']]) {
      const port = await freePort();
      await nbdkit(port, ...tls);
      const wire = await startRecordingRelay(port);
      cleanUp.push(() => wire.close());
      const address = parseNbdUri(`nbds://127.0.0.1:${wire.port}/secret-name`);
      await assert.rejects(
        OriginConnection.connect({ address, tls: await party() }),
        /refuses TLS|oldstyle|too old for TLS/,
      );
      assert.ok(!wire.fromClient().includes('secret-name'));
    }
    await assert.rejects(
      OriginConnection.connect({ address: parseNbdUri('nbds://127.0.0.1:1/x') }),
      /there are no certificates: name them with --tls-dir/,
    );
  });

  it('what somebody on the way puts before TLS is not taken (CVE-2021-3716)', async () => {
    const behave = async (socket: Socket, answer: Buffer): Promise<void> => {
      socket.write(encodeGreeting());
      await readExactly(socket, 4 + 16);
      socket.write(answer);
    };
    const accepted = encodeOptionReply(Option.STARTTLS, OptionReply.ACK);
    const injected = encodeOptionReply(Option.STRUCTURED_REPLY, OptionReply.ACK);
    for (const [answer, why] of [
      [Buffer.concat([accepted, injected]), /bytes came between STARTTLS and TLS/],
      [injected, /a reply to option 8 came for option 5/],
      [encodeOptionReply(Option.STARTTLS, OptionReply.ERR_POLICY, 'not today'), /refuses TLS.*not today/],
    ] as const) {
      const server = createServer((socket) => {
        socket.on('error', () => undefined);
        behave(socket, answer).catch(() => undefined);
      }).listen(0, '127.0.0.1');
      await once(server, 'listening');
      cleanUp.push(() => server.close());
      const at = server.address();
      const port = typeof at === 'object' && at !== null ? at.port : 0;
      const address = parseNbdUri(`nbds://127.0.0.1:${port}/disk`);
      await assert.rejects(OriginConnection.connect({ address, tls: await party() }), why);
    }
  });

  it('a certificate that was renewed is shown when the link is made again, without a restart', async () => {
    const target = await startExport('target', 'renewing', join(dir, 'renewing.sock'), [
      ...['--image', image, '--read-only', '--state', join(dir, 'renewing')],
    ]);
    cleanUp.push(() => target.end());
    const port = await freePort();
    const gatewayFor = async (allow: string[]): Promise<Gateway> => {
      const gateway = await startGateway({
        run: dir,
        tls: { credentials: new Credentials(await certificatesIn(origin, 'server')), allow },
        listen: (visit) => listenPlain({ host: '127.0.0.1', port }, visit),
      });
      cleanUp.push(() => gateway.close(0));
      return gateway;
    };
    const before = await gatewayFor(['b.example']);
    const own = await ca.issue(join(dir, 'renewed'), 'b.example');
    const proxy = await startProxy(`nbds://127.0.0.1:${port}/renewing`, own, '--takeover', 'first-write');
    const client = await connectClient(proxy.uri);
    cleanUp.push(() => client.disconnect());
    await client.read(0, 4096);
    await ca.issue(own, 'b2.example');
    await client.read(MIB, 4096);
    await before.close(0);
    // Whoever still showed the old one would not get in.
    await gatewayFor(['b2.example']);
    assert.ok((await client.read(4 * MIB, 65536)).equals(content.subarray(4 * MIB, 4 * MIB + 65536)));
  });

  it('a gateway that does not know us: an error that says where to look', async () => {
    const gateway = await startGateway({
      run: dir,
      tls: { credentials: new Credentials(await certificatesIn(origin, 'server')), allow: ['z.example'] },
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    cleanUp.push(() => gateway.close(0));
    await assert.rejects(
      startProxy(`nbds://127.0.0.1:${gateway.address.port}/disk`),
      /hung up after TLS: is this host's certificate, .*here\/client-cert\.pem, in allow under \[tls\] at the server/,
    );
    await assert.rejects(
      startProxy(`nbds://127.0.0.1:${gateway.address.port}/disk`, join(dir, 'nowhere')),
      /nowhere\/ca-cert\.pem cannot be read \(ENOENT\): xnbdctl pki check/,
    );
  });
});
