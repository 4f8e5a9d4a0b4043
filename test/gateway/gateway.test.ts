import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { type Gateway, type GatewayOptions, startGateway } from '../../src/gateway/gateway.ts';
import { readExactly } from '../../src/gateway/read-exactly.ts';
import { listenPlain } from '../../src/gateway/transport.ts';
import { configureLog } from '../../src/log/log.ts';
import { HandshakeFlag, NBD_OPTS_MAGIC, Option, OptionReply } from '../../src/nbd/constants.ts';
import { decodeAttached, encodeAttachRequest } from '../../src/nbd/handshake/attach.ts';
import {
  decodeGreeting,
  decodeOptionReplyHeader,
  encodeOption,
  GREETING_LENGTH,
} from '../../src/nbd/handshake/option-framing.ts';
import { rememberDeparted, sweepDeparted } from '../../src/store/records/departed.ts';
import { newRecord, writeRecord } from '../../src/store/records/record.ts';
import { TestCa } from '../lab/host/certificates.ts';
import { installed } from '../lab/installed.ts';
import { connectClient } from '../lab/nbd/client.ts';
import { startExport } from '../lab/nbd/export-process.ts';
import { freePort } from '../lab/net/free-port.ts';
import { waitFor } from '../lab/wait-for.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;

describe('gateway', () => {
  let dir: string;
  let gateway: Gateway;
  let port: number;
  const cleanUp: (() => unknown)[] = [];

  before(function () {
    if (!installed('nbdkit')) this.skip();
    configureLog({ level: 'error' });
  });
  after(() => configureLog({ level: 'info' }));
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'gateway-'));
  });
  afterEach(async () => {
    for (const step of cleanUp.splice(0).reverse()) await step();
    await rm(dir, { recursive: true });
  });

  async function start(options: Partial<GatewayOptions> = {}): Promise<void> {
    gateway = await startGateway({
      run: dir,
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
      ...options,
    });
    port = gateway.address.port;
    cleanUp.push(() => gateway.close(0));
  }

  /** An export that is not ours: the gateway relies on standard NBD alone. */
  async function serve(name: string, ...plugin: string[]): Promise<() => Promise<void>> {
    const socket = join(dir, `${name}.sock`);
    const child = spawn('nbdkit', ['-f', '--exit-with-parent', '--log=null', '-U', socket, ...plugin], {
      stdio: 'inherit',
    });
    const gone = once(child, 'exit');
    const end = async (): Promise<void> => {
      child.kill('SIGKILL');
      await gone;
    };
    cleanUp.push(end);
    for (let tries = 0; ; tries++) {
      const client = connect(socket);
      const connected = await new Promise((resolve) => {
        client.on('connect', () => resolve(true)).on('error', () => resolve(false));
      });
      client.destroy();
      if (connected === true) return end;
      assert.ok(tries < 500, 'nbdkit does not listen');
      await sleep(10);
    }
  }

  async function dial(
    flags: number = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES,
  ): Promise<Socket> {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    socket.on('error', () => undefined);
    cleanUp.push(() => socket.destroy());
    decodeGreeting(await readExactly(socket, GREETING_LENGTH));
    const clientFlags = Buffer.alloc(4);
    clientFlags.writeUInt32BE(flags);
    socket.write(clientFlags);
    return socket;
  }

  interface Answers {
    type: number;
    texts: string[];
  }

  /** Sends an option and reads its replies to the last one. */
  async function ask(socket: Socket, option: number, data: Buffer = Buffer.alloc(0)): Promise<Answers> {
    socket.write(encodeOption(option, data));
    const texts: string[] = [];
    while (true) {
      const header = decodeOptionReplyHeader(await readExactly(socket, 20));
      assert.equal(header.option, option);
      const body = header.length > 0 ? await readExactly(socket, header.length) : Buffer.alloc(0);
      texts.push(body.toString('latin1'));
      if (header.type === OptionReply.ACK || header.type >= 2 ** 31) return { type: header.type, texts };
    }
  }

  const naming = (name: string, tail: Buffer = Buffer.alloc(2)): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(Buffer.byteLength(name));
    return Buffer.concat([length, Buffer.from(name), tail]);
  };

  async function isClosed(socket: Socket): Promise<void> {
    socket.resume();
    if (!socket.closed) await once(socket, 'close');
  }

  it('notices within seconds, not hours, that a host is gone which said no goodbye', async function () {
    if (!installed('ss')) this.skip();
    await start();
    await dial();
    const { stdout } = await run('ss', [
      '--tcp',
      '--numeric',
      '--options',
      '--no-header',
      `sport = :${port}`,
    ]);
    assert.match(stdout, /timer:\(keepalive,(\d{1,2}sec|\d+ms|[\d.]+sec)/);
  });

  it('lists the exports that answer, and no other socket', async () => {
    await start();
    await serve('two', 'memory', '1M');
    await serve('one', 'memory', '1M');
    await (await serve('dead', 'memory', '1M'))();
    const hooks = createServer((socket) => socket.destroy()).listen(join(dir, 'hook.sock'));
    cleanUp.push(() => hooks.close());
    const socket = await dial();
    const { type, texts } = await ask(socket, Option.LIST);
    assert.equal(type, OptionReply.ACK);
    assert.deepEqual(
      texts.map((text) => text.slice(4)),
      ['one', 'two', ''],
    );
    assert.equal((await ask(socket, Option.ABORT)).type, OptionReply.ACK);
    await isClosed(socket);
  });

  it('carries a whole disk both ways for nbdcopy, with its holes', async function () {
    if (!installed('nbdcopy', 'nbdinfo')) this.skip();
    await start();
    await serve('disk', 'memory', '24M');
    const source = join(dir, 'source');
    const file = await open(source, 'w');
    await file.truncate(24 * MIB);
    await file.write(Buffer.alloc(5 * MIB, 'guest data '), 0, 5 * MIB, 7 * MIB);
    await file.close();
    await run('nbdcopy', [source, `nbd://127.0.0.1:${port}/disk`]);
    await run('nbdcopy', [`nbd://127.0.0.1:${port}/disk`, join(dir, 'copy')]);
    assert.ok((await readFile(source)).equals(await readFile(join(dir, 'copy'))));
    const map = JSON.parse(
      (await run('nbdinfo', ['--map', '--json', `nbd://127.0.0.1:${port}/disk`])).stdout,
    ) as object[];
    assert.ok(map.length > 1, 'structured replies were agreed before the export was named');
  });

  it('passes a lease on: XNBD_ATTACH names the export, and GO may name no other', async function () {
    this.timeout(60_000);
    await start();
    for (const name of ['one', 'two']) {
      const image = join(dir, `${name}.img`);
      await writeFile(image, Buffer.alloc(MIB, name));
      const served = await startExport('target', name, join(dir, `${name}.sock`), ['--image', image]);
      cleanUp.push(() => served.end());
    }
    const lease = { lease: '11111111-2222-4333-8444-555555555555', uuid: null, generation: 0, name: 'two' };
    const socket = await dial();
    assert.equal((await ask(socket, Option.STRUCTURED_REPLY)).type, OptionReply.ACK);
    const { type, texts } = await ask(socket, Option.XNBD_ATTACH, encodeAttachRequest(lease));
    assert.equal(type, OptionReply.ACK);
    const attached = decodeAttached(Buffer.from(texts[0]!, 'latin1'));
    assert.deepEqual([attached.size, attached.fenced], [MIB, false]);
    assert.ok((await ask(socket, Option.GO, naming('one'))).type >= 2 ** 31);
    assert.equal((await ask(socket, Option.GO, naming('two'))).type, OptionReply.ACK);
    const other = await dial();
    const again = { ...lease, lease: '99999999-2222-4333-8444-555555555555' };
    const refused = await ask(other, Option.XNBD_ATTACH, encodeAttachRequest(again));
    assert.equal(refused.type, OptionReply.ERR_POLICY);
    const unknown = await ask(other, Option.GO, naming('one'));
    assert.notEqual(unknown.type, OptionReply.ACK, 'this connection is a pipe to export two by now');
  });

  it('passes extended headers on, which are agreed before the export is named', async function () {
    this.timeout(60_000);
    await start();
    const image = join(dir, 'one.img');
    await writeFile(image, Buffer.alloc(MIB, 'one'));
    const served = await startExport('target', 'one', join(dir, 'one.sock'), ['--image', image]);
    cleanUp.push(() => served.end());
    const client = await connectClient(`nbd://127.0.0.1:${port}/one`);
    assert.equal(client.connection.offer.extended, true);
    assert.deepEqual(await client.read(0, MIB), await readFile(image));
    client.disconnect();
    const socket = await dial();
    assert.equal((await ask(socket, Option.EXTENDED_HEADERS)).type, OptionReply.ACK);
    assert.ok((await ask(socket, Option.STRUCTURED_REPLY)).type >= 2 ** 31);
  });

  it('lets the export answer INFO, then GO on the same connection', async () => {
    await start();
    await serve('disk', 'memory', '3M');
    const socket = await dial();
    assert.equal((await ask(socket, Option.STRUCTURED_REPLY)).type, OptionReply.ACK);
    const info = await ask(socket, Option.INFO, naming('disk'));
    assert.equal(info.type, OptionReply.ACK);
    assert.equal(Buffer.from(info.texts[0]!, 'latin1').readBigUInt64BE(2), BigInt(3 * MIB));
    assert.equal((await ask(socket, Option.GO, naming('disk'))).type, OptionReply.ACK);
  });

  it('passes EXPORT_NAME on with the flags of the client: 124 zeros for one that wants them', async () => {
    await start();
    await serve('disk', 'memory', '3M');
    for (const [flags, length] of [
      [0, 134],
      [HandshakeFlag.FIXED_NEWSTYLE, 134],
      [HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES, 10],
    ] as const) {
      const socket = await dial(flags);
      socket.write(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
      const answer = await readExactly(socket, length);
      assert.equal(answer.readBigUInt64BE(0), BigInt(3 * MIB));
      await sleep(20);
      assert.equal(socket.readableLength, 0);
      socket.destroy();
    }
  });

  it('says no to names that nobody serves, and goes on', async () => {
    await start();
    await serve('disk', 'memory', '1M');
    const hooks = createServer((socket) => socket.destroy()).listen(join(dir, 'hook.sock'));
    cleanUp.push(() => hooks.close());
    const socket = await dial();
    for (const name of [
      'other',
      '',
      '../disk',
      '/etc/passwd',
      'hook',
      'di\0sk',
      '.',
      'disk.sock',
      'x'.repeat(3000),
    ]) {
      for (const option of [Option.GO, Option.INFO]) {
        const { type, texts } = await ask(socket, option, naming(name));
        assert.equal(type, OptionReply.ERR_UNKNOWN, name);
        assert.match(texts[0]!, /^[\x20-\x7e]{1,200}$/);
      }
    }
    assert.equal((await ask(socket, Option.STARTTLS)).type, OptionReply.ERR_UNSUP);
    assert.equal((await ask(socket, 4711)).type, OptionReply.ERR_UNSUP);
    assert.equal((await ask(socket, Option.GO, naming('disk'))).type, OptionReply.ACK);
    const oldClient = await dial();
    oldClient.write(encodeOption(Option.EXPORT_NAME, Buffer.from('other')));
    await isClosed(oldClient);
  });

  it('tells an export that does not run now, or has retired, from one that is not known here', async () => {
    const records = join(dir, 'records');
    await start({ records });
    for (const [name, state] of [
      ['asleep', 'fenced'],
      ['history', 'retired'],
    ] as const)
      await writeRecord(join(records, name), { ...newRecord(name, '/x.img', MIB), state });
    await writeRecord(join(records, 'broken'), newRecord('broken', '/x.img', MIB));
    await writeFile(join(records, 'broken', 'export.json'), 'nonsense');
    const socket = await dial();
    for (const [name, answer] of [
      ['asleep', OptionReply.ERR_SHUTDOWN],
      ['broken', OptionReply.ERR_SHUTDOWN],
      ['history', OptionReply.XNBD_ERR_RETIRED],
      ['nobody', OptionReply.ERR_UNKNOWN],
      ['..', OptionReply.ERR_UNKNOWN],
    ] as const) {
      const attach = encodeAttachRequest({ lease: randomUUID(), uuid: null, generation: 0, name });
      const { type, texts } = await ask(socket, Option.XNBD_ATTACH, attach);
      assert.equal(type, answer, `${name}: ${texts.join(' ')}`);
    }
    assert.equal((await ask(socket, Option.GO, naming('history'))).type, OptionReply.ERR_POLICY);
  });

  it('tells who was lent a disk that is void now, and nobody else, while its export does not run', async () => {
    const records = join(dir, 'records');
    await start({ records });
    const [fenced, lent, stranger] = [randomUUID(), randomUUID(), randomUUID()];
    await writeRecord(join(records, 'void'), {
      ...newRecord('void', '/x.img', MIB),
      state: 'reclaimed',
      lease: fenced,
      voidLeases: [lent],
    });
    const socket = await dial();
    for (const [lease, answer] of [
      [fenced, OptionReply.XNBD_ERR_VOID],
      [lent, OptionReply.XNBD_ERR_VOID],
      [stranger, OptionReply.ERR_SHUTDOWN],
    ] as const) {
      const attach = encodeAttachRequest({ lease, uuid: null, generation: 0, name: 'void' });
      assert.equal((await ask(socket, Option.XNBD_ATTACH, attach)).type, answer);
    }
  });

  it('tells who was lent a disk that is deleted what became of it, and knows nothing of any other', async () => {
    const records = join(dir, 'records');
    await start({ records });
    const [uuid, other] = [randomUUID(), randomUUID()];
    const [lost, third] = [randomUUID(), randomUUID()];
    const record = { ...newRecord('gone', '/x.img', MIB), uuid };
    await rememberDeparted(records, { ...record, state: 'retired', generation: 3, voidLeases: [lost] });
    await rememberDeparted(records, { ...record, state: 'retired', generation: 1 });
    await rememberDeparted(records, { ...record, state: 'reclaimed', generation: 4, lease: third });
    const socket = await dial();
    for (const [asked, generation, answer] of [
      [uuid, 3, OptionReply.XNBD_ERR_RETIRED],
      [uuid, 1, OptionReply.XNBD_ERR_RETIRED],
      [uuid, 4, OptionReply.ERR_UNKNOWN],
      [other, 3, OptionReply.ERR_UNKNOWN],
      [null, 0, OptionReply.ERR_UNKNOWN],
    ] as const) {
      const attach = encodeAttachRequest({ lease: randomUUID(), uuid: asked, generation, name: 'gone' });
      assert.equal((await ask(socket, Option.XNBD_ATTACH, attach)).type, answer);
    }
    for (const lease of [lost, third]) {
      const attach = encodeAttachRequest({ lease, uuid, generation: 1, name: 'gone' });
      assert.equal((await ask(socket, Option.XNBD_ATTACH, attach)).type, OptionReply.XNBD_ERR_VOID);
    }
    await sweepDeparted(records, Date.now() + 31 * 24 * 3600 * 1000);
    const late = encodeAttachRequest({ lease: randomUUID(), uuid, generation: 3, name: 'gone' });
    assert.equal((await ask(socket, Option.XNBD_ATTACH, late)).type, OptionReply.ERR_UNKNOWN);
  });

  it('refuses malformed options and ends on absurd ones', async () => {
    await start();
    const socket = await dial();
    const absurdName = Buffer.alloc(40);
    absurdName.writeUInt32BE(0xffffffff);
    for (const option of [Option.GO, Option.INFO, Option.SET_META_CONTEXT, Option.LIST_META_CONTEXT]) {
      assert.equal((await ask(socket, option, absurdName)).type, OptionReply.ERR_INVALID);
      assert.equal((await ask(socket, option, Buffer.alloc(3))).type, OptionReply.ERR_INVALID);
    }
    assert.equal((await ask(socket, Option.XNBD_ATTACH, Buffer.alloc(60))).type, OptionReply.ERR_INVALID);
    assert.equal((await ask(socket, Option.LIST, Buffer.alloc(1))).type, OptionReply.ERR_INVALID);
    const absurd = Buffer.alloc(16);
    absurd.writeBigUInt64BE(NBD_OPTS_MAGIC);
    absurd.writeUInt32BE(Option.GO, 8);
    absurd.writeUInt32BE(0xffffffff, 12);
    socket.write(absurd);
    assert.equal(decodeOptionReplyHeader(await readExactly(socket, 20)).type, OptionReply.ERR_TOO_BIG);
    await isClosed(socket);
    const flags = await dial(0x80);
    await isClosed(flags);
    const endless = await dial();
    const options = Buffer.concat(Array.from({ length: 100 }, () => encodeOption(4711, Buffer.alloc(0))));
    endless.write(options);
    await isClosed(endless);
  });

  it('serves the others whatever one client sends, and wherever it stops', async () => {
    await start();
    await serve('disk', 'memory', '1M');
    const steady = await dial();
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.oneof(
            fc.uint8Array({ maxLength: 64 }),
            fc.constantFrom(
              Buffer.from([0, 0, 0, 3]),
              Buffer.from('IHAVEOPT'),
              encodeOption(Option.GO, naming('disk')),
            ),
            fc
              .tuple(fc.nat(12), fc.uint8Array({ maxLength: 40 }))
              .map(([option, data]) => encodeOption(option, Buffer.from(data))),
          ),
          { maxLength: 8 },
        ),
        fc.boolean(),
        async (messages, abruptly) => {
          const socket = connect({ host: '127.0.0.1', port });
          socket.on('error', () => undefined).resume();
          for (const message of messages) socket.write(message);
          if (abruptly) socket.resetAndDestroy();
          else socket.end();
          await isClosed(socket);
        },
      ),
      { numRuns: 60 },
    );
    assert.equal((await ask(steady, Option.GO, naming('disk'))).type, OptionReply.ACK);
  });

  it('shows out who names no export in time', async () => {
    await start({ handshakeLimitMs: 100 });
    await isClosed(await dial());
    const silent = connect({ host: '127.0.0.1', port });
    await isClosed(silent);
  });

  it('shows out the oldest of too many who name no export, and serves the newest', async () => {
    await start({ door: { standing: 3 } });
    await serve('disk', 'memory', '1M');
    const served = await dial();
    await ask(served, Option.GO, naming('disk'));
    const idle = [await dial(), await dial(), await dial()];
    const newest = await dial();
    await isClosed(idle[0]!);
    assert.equal((await ask(newest, Option.GO, naming('disk'))).type, OptionReply.ACK);
    assert.equal(served.destroyed, false);
    assert.equal((await ask(idle[2]!, Option.GO, naming('disk'))).type, OptionReply.ACK);
  });

  it('a flood of strangers keeps no host out, and those that come too often are turned away', async () => {
    const door = { standing: 8, burst: 50, perSecond: 10 };
    await start({ door });
    await serve('disk', 'memory', '1M');
    const [host, flood] = [await dial(), { on: true, refused: 0 }];
    const strangers = (async () => {
      while (flood.on) {
        const stranger = connect({ host: '127.0.0.1', port, localAddress: '127.0.0.9' });
        stranger.on('error', () => undefined).on('close', () => (flood.refused += 1));
        cleanUp.push(() => stranger.destroy());
        await sleep(5);
      }
    })();
    await waitFor('more strangers to be gone than may come', () => flood.refused > door.burst + 10);
    assert.equal((await ask(host, Option.GO, naming('disk'))).type, OptionReply.ACK);
    flood.on = false;
    await strangers;
    // A host that gets in may come as often as it likes.
    for (let visits = 0; visits < 2 * door.burst; visits++) {
      const again = await dial();
      assert.equal((await ask(again, Option.GO, naming('disk'))).type, OptionReply.ACK);
      again.destroy();
    }
  });

  it('gives back pressure: a client that does not read holds up nobody and fills no memory', async () => {
    await start();
    await serve('disk', 'memory', '256M');
    const lazy = await dial();
    await ask(lazy, Option.GO, naming('disk'));
    const before = process.memoryUsage.rss();
    lazy.pause();
    for (let i = 0; i < 64; i++) {
      const read = Buffer.alloc(28);
      read.writeUInt32BE(0x25609513);
      read.writeUInt32BE(4 * MIB, 24);
      lazy.write(read);
    }
    const other = await dial();
    assert.equal((await ask(other, Option.GO, naming('disk'))).type, OptionReply.ACK);
    await sleep(300);
    const grown = (process.memoryUsage.rss() - before) / MIB;
    assert.ok(grown < 64, `${grown} MiB more`);
  });

  it('ends a visit when the export dies, and those of no other', async () => {
    await start();
    const kill = await serve('mortal', 'memory', '1M');
    await serve('disk', 'memory', '1M');
    const [one, other] = [await dial(), await dial()];
    await ask(one, Option.GO, naming('mortal'));
    await ask(other, Option.INFO, naming('disk'));
    await kill();
    await isClosed(one);
    assert.equal((await ask(other, Option.GO, naming('disk'))).type, OptionReply.ACK);
  });

  it('does not take a socket for an export that never greets', async () => {
    await start();
    const silent = createServer(() => undefined).listen(join(dir, 'silent.sock'));
    cleanUp.push(() => silent.close());
    const socket = await dial();
    const { type, texts } = await ask(socket, Option.GO, naming('silent'));
    assert.equal(type, OptionReply.ERR_PLATFORM);
    assert.match(texts[0]!, /silent does not greet/);
  });

  it('listens on [::] for IPv4 and IPv6, and calls an IPv4 peer by its own address', async () => {
    const seen: string[] = [];
    const transport = await listenPlain({ host: '::', port: 0 }, ({ address, stream }) => {
      seen.push(address);
      stream.destroy();
    });
    const hosts = networkInterfaces().lo?.some(({ family }) => family === 'IPv6')
      ? ['127.0.0.1', '::1']
      : ['127.0.0.1'];
    for (const host of hosts) await once(connect({ host, port: transport.address.port }), 'close');
    transport.close();
    assert.deepEqual(seen, hosts);
  });

  it('says what is wrong with its address', async () => {
    await start();
    await assert.rejects(
      listenPlain({ host: '127.0.0.1', port }, () => undefined),
      new RegExp(`cannot listen on 127.0.0.1:${port}: another program has it`),
    );
  });

  describe('xnbd-gateway', () => {
    const program = new URL('../../src/bin/xnbd-gateway.ts', import.meta.url).pathname;

    it('waits for its certificates, their key and a name to let in, and then serves', async function () {
      if (!installed('openssl')) this.skip();
      port = await freePort();
      const config = join(dir, 'xnbd.conf');
      const lines = (allow: string) =>
        `[paths]\nrun = ${dir}\n[gateway]\nlisten = 127.0.0.1:${port}\n[tls]\nca = ${dir}/a/ca-cert.pem\n` +
        `cert = ${dir}/a/server-cert.pem\nkey = ${dir}/a/server-key.pem\n${allow}`;
      await writeFile(config, lines(''));
      const child = spawn(process.execPath, [program, '--config', config], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      const exit = once(child, 'exit');
      cleanUp.push(() => child.kill('SIGKILL'));
      let said = '';
      child.stderr.on('data', (data) => (said += String(data)));
      const says = async (what: RegExp): Promise<void> => {
        while (!what.test(said)) await once(child.stderr, 'data');
      };
      await says(/nobody is let in yet: \S+ca-cert\.pem cannot be read \(ENOENT\)/);
      assert.equal((await readFile(`/proc/${child.pid}/comm`, 'utf8')).trim(), 'xnbd-gateway');
      const ca = await TestCa.make(join(dir, 'ca'));
      const made = await ca.issue(join(dir, 'made'), 'a.example');
      const key = join(made, 'server-key.pem');
      await rename(key, `${key}.later`);
      await symlink(made, join(dir, 'a'));
      await says(/nobody is let in yet: \S+server-key\.pem cannot be read/);
      await rename(`${key}.later`, key);
      await says(/nobody is let in yet: TLS is required and nobody may come/);
      // It looks again, and says nothing that it has said.
      await sleep(2500);
      await writeFile(config, lines('allow = b.example\n'));
      await says(/listening on/);
      assert.equal(said.split('nobody may come').length, 2, said);
      child.kill('SIGTERM');
      assert.deepEqual(await exit, [0, null]);
    });

    it('does not start in the clear unless told so', async () => {
      const config = join(dir, 'xnbd.conf');
      await writeFile(config, `[gateway]\nlisten = 127.0.0.1:1\n[tls]\nca = ${dir}/ca.pem\n`);
      const child = spawn(process.execPath, [program, '--config', config], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      cleanUp.push(() => child.kill('SIGKILL'));
      const [said] = (await once(child.stderr, 'data')) as [Buffer];
      assert.match(String(said), /\S+\.pem cannot be read \(ENOENT\): xnbdctl pki check says what TLS needs/);
      assert.doesNotMatch(String(said), /listening/);
      await assert.rejects(run(process.execPath, [program, '--wrong']), /usage/);
    });

    it('serves, and ends on SIGTERM when its visitors are gone', async () => {
      await serve('disk', 'memory', '1M');
      port = await freePort();
      const config = join(dir, 'xnbd.conf');
      await writeFile(config, `[paths]\nrun = ${dir}\n[gateway]\nlisten = 127.0.0.1:${port}\ntls = off\n`);
      const child = spawn(process.execPath, [program, '--config', config], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      const exit = once(child, 'exit');
      cleanUp.push(() => child.kill('SIGKILL'));
      let said = '';
      child.stderr.on('data', (data) => (said += String(data)));
      while (!said.includes('listening on')) await once(child.stderr, 'data');
      const socket = await dial();
      await ask(socket, Option.GO, naming('disk'));
      child.kill('SIGTERM');
      await sleep(100);
      assert.equal(child.exitCode, null, 'still there for its visitor');
      socket.end();
      assert.deepEqual(await exit, [0, null]);
      assert.match(said, /ended/);
    });
  });
});
