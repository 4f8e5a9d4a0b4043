/** The process of an export is replaced, and its clients notice nothing but a short wait. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { truncate, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, CommandFlag, Option, OptionReply } from '../../../src/nbd/constants.ts';
import { encodeOption } from '../../../src/nbd/handshake/option-framing.ts';
import type { ExportProcess } from '../../lab/nbd/export-process.ts';
import { encodeRawRequest, infoRequest, metaContext, RawClient } from '../../lab/nbd/raw-client.ts';
import { useExports } from '../../lab/nbd/use-exports.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;

describe('an export whose process is replaced', function () {
  this.timeout(60_000);
  const { path, start } = useExports();
  const clients: RawClient[] = [];
  let target: ExportProcess;

  beforeEach(async () => {
    await writeFile(path('a.img'), '');
    await truncate(path('a.img'), SIZE);
    target = await start('target', 'a');
  });
  afterEach(() => {
    for (const client of clients.splice(0)) client.break();
  });
  const open = async (options: Parameters<typeof RawClient.open>[2] = {}) => {
    const client = await RawClient.open(target.socket, 'disk', options);
    clients.push(client);
    return client;
  };

  for (const [style, options] of [
    ['simple', { structured: false }],
    ['structured', {}],
    ['extended', { extended: true }],
  ] as const) {
    it(`keeps a connection with ${style} replies, and what was written by it`, async () => {
      const client = await open(options);
      const data = randomBytes(MIB);
      assert.equal(await client.write(5 * MIB, data), 0);
      const before = target.child.pid;
      const pid = await target.restart();
      assert.notEqual(pid, before);
      const reply = await client.read(5 * MIB, MIB);
      assert.deepEqual(reply.data, data);
      assert.equal(await client.write(9 * MIB, data, CommandFlag.FUA), 0);
      assert.equal(await client.command(Command.FLUSH), 0);
      if (style !== 'simple') {
        const extents = await client.ask({ type: Command.BLOCK_STATUS, offset: 0, length: SIZE });
        assert.equal(extents.errno, 0);
        assert.ok(extents.data.length > 0);
      }
      const status = await target.status();
      assert.equal(status.clients, 1);
      assert.equal(status.writtenBytes, 2 * MIB);
      assert.equal(await target.ended(), 0);
    });
  }

  it('keeps what has come of a request, and answers it when the rest comes', async () => {
    for (const extended of [false, true]) {
      const client = await open({ extended });
      const payload = randomBytes(3 * MIB);
      const write = {
        type: Command.WRITE,
        offset: MIB,
        length: payload.length,
        payload,
        cookie: 7n,
        extended,
      };
      const bytes = encodeRawRequest(write);
      // Within the header, within the payload, and one byte short.
      for (const cut of [10, 40, 2 * MIB, bytes.length - 1]) {
        client.socket.write(bytes.subarray(0, cut));
        await sleep(30);
        await target.restart();
        client.socket.write(bytes.subarray(cut));
        const reply = await client.reply();
        assert.equal(reply.errno, 0);
        assert.equal(reply.cookie, 7n);
      }
      assert.deepEqual((await client.read(MIB, payload.length)).data, payload);
    }
  });

  it('keeps a handshake, at whatever step it is', async () => {
    const fresh = await RawClient.connect(target.socket, null);
    clients.push(fresh);
    await target.restart();
    fresh.socket.write(Buffer.from([0, 0, 0, 3]));
    assert.equal((await fresh.option(Option.STRUCTURED_REPLY)).at(-1)?.type, OptionReply.ACK);
    await target.restart();
    const context = metaContext('disk', ['base:allocation']);
    assert.equal((await fresh.option(Option.SET_META_CONTEXT, context)).at(-1)?.type, OptionReply.ACK);
    // An option in two halves.
    const go = encodeOption(Option.GO, infoRequest('disk'));
    fresh.socket.write(go.subarray(0, 21));
    await sleep(30);
    await target.restart();
    fresh.socket.write(go.subarray(21));
    for (let type = 0; type !== OptionReply.ACK; ) {
      const header = await fresh.take(20);
      type = header.readUInt32BE(12);
      await fresh.take(header.readUInt32BE(16));
    }
    const extents = await fresh.ask({ type: Command.BLOCK_STATUS, offset: 0, length: SIZE });
    assert.equal(extents.errno, 0);
  });

  it('sends the rest of its replies to a client that has not read them, whole and once', async () => {
    const client = await open();
    const data = randomBytes(32 * MIB);
    for (let at = 0; at < data.length; at += 8 * MIB)
      assert.equal(await client.write(at, data.subarray(at, at + 8 * MIB)), 0);
    client.socket.pause();
    const cookies = [0, 1, 2, 3].map((part) =>
      client.send({ type: Command.READ, offset: part * 8 * MIB, length: 8 * MIB }),
    );
    await sleep(100);
    await target.restart();
    await sleep(50);
    await target.restart();
    client.socket.resume();
    for (let replies = 0; replies < 4; replies++) {
      const { cookie, errno, data: read } = await client.reply();
      const part = cookies.indexOf(cookie);
      assert.equal(errno, 0);
      assert.ok(read.equals(data.subarray(part * 8 * MIB, (part + 1) * 8 * MIB)));
      cookies[part] = -1n;
    }
    assert.equal(await client.command(Command.FLUSH), 0);
  });

  it('keeps two hundred and fifty connections, and takes new ones while it changes hands', async () => {
    const many = await Promise.all(Array.from({ length: 250 }, () => open()));
    const restarted = target.restart();
    let connecting = true;
    const come = (async () => {
      while (connecting) {
        const client = await RawClient.open(target.socket, 'disk');
        assert.equal(await client.command(Command.FLUSH), 0);
        client.break();
      }
    })();
    await restarted;
    connecting = false;
    await come;
    const flushed = await Promise.all(many.map((client) => client.command(Command.FLUSH)));
    assert.deepEqual(new Set(flushed), new Set([0]));
    assert.equal((await target.status()).clients, 250);
  });

  it('answers each request of clients that never stop asking, ten times over', async () => {
    const writers = await Promise.all([open(), open({ extended: true }), open({ structured: false })]);
    let going = true;
    const slowest: number[] = [];
    const written = writers.map(async (client, index) => {
      let longest = 0;
      const last = new Map<number, Buffer>();
      while (going) {
        const offset = index * 16 * MIB + Math.floor(Math.random() * 200) * 65536;
        const data = randomBytes(4096 * (1 + Math.floor(Math.random() * 15)));
        const began = performance.now();
        assert.equal(await client.write(offset, data), 0);
        longest = Math.max(longest, performance.now() - began);
        last.set(offset, data);
      }
      slowest.push(longest);
      return { client, last };
    });
    for (let times = 0; times < 10; times++) {
      await target.restart();
      await sleep(50);
    }
    going = false;
    for (const { client, last } of await Promise.all(written))
      for (const [offset, data] of last)
        assert.ok((await client.read(offset, data.length)).data.equals(data), `at ${offset}`);
    console.log(`      longest wait of a write: ${Math.max(...slowest).toFixed(0)} ms`);
  });
});
