/** 64-bit headers (EXTENDED_HEADERS): no client of Debian 12 speaks them, so a raw one does. */
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import {
  AllocationFlag,
  Command,
  CommandFlag,
  Errno,
  NBD_MAX_PAYLOAD,
  Option,
  OptionReply,
  ReplyChunk,
} from '../../../src/nbd/constants.ts';
import { encodeRawRequest, RawClient } from '../../lab/nbd/raw-client.ts';
import { serveTarget, type TestTarget } from '../../lab/nbd/serving.ts';

const TIB = 2 ** 40;
const HOLE = AllocationFlag.HOLE | AllocationFlag.ZERO;

describe('session with extended headers', () => {
  let target: TestTarget;
  let client: RawClient;

  beforeEach(async () => {
    target = await serveTarget({ sizeBytes: 5 * TIB });
    client = await RawClient.open(target.socket, 'd', { extended: true });
  });

  afterEach(async () => {
    client.break();
    await target.remove();
  });

  it('reads and writes, every answer in an extended header with the offset of its request', async () => {
    const payload = randomBytes(100_000);
    const offset = 4 * TIB + 5;
    const written = await client.ask({ type: Command.WRITE, offset, length: payload.length, payload });
    assert.deepEqual(
      [written.errno, written.chunk, written.extended, written.offset],
      [0, ReplyChunk.NONE, true, BigInt(offset)],
    );
    const read = await client.read(offset, payload.length);
    assert.deepEqual([read.chunk, read.offset], [ReplyChunk.OFFSET_DATA, BigInt(offset)]);
    assert.ok(read.data.equals(payload));
    for (const [type, at, length, errno] of [
      [Command.READ, 5 * TIB, 1, Errno.EINVAL],
      [Command.READ, 0, NBD_MAX_PAYLOAD + 1, Errno.EOVERFLOW],
      [Command.READ, 0, 2 ** 33, Errno.EOVERFLOW],
      [Command.TRIM, 1, 5 * TIB, Errno.EINVAL],
      [0x7777, 3, 0, Errno.EINVAL],
      [Command.FLUSH, 0, 0, 0],
    ] as const) {
      const reply = await client.ask({ type, offset: at, length });
      assert.deepEqual([reply.errno, reply.extended, reply.offset], [errno, true, BigInt(at)]);
    }
  });

  it('clears, asks for and caches more than 4 GiB at once', async () => {
    const payload = Buffer.alloc(65_536, 1);
    for (const offset of [0, 3 * TIB]) await client.write(offset, payload);
    const map = async () => {
      const status = await client.ask({ type: Command.BLOCK_STATUS, length: 5 * TIB });
      assert.deepEqual([status.errno, status.chunk], [0, ReplyChunk.BLOCK_STATUS_EXT]);
      const count = status.data.readUInt32BE(4);
      assert.equal(status.data.length, 8 + 16 * count);
      return Array.from({ length: count }, (_, index) => [
        Number(status.data.readBigUInt64BE(8 + 16 * index)),
        Number(status.data.readBigUInt64BE(16 + 16 * index)),
      ]);
    };
    assert.deepEqual(await map(), [
      [65_536, 0],
      [3 * TIB - 65_536, HOLE],
      [65_536, 0],
      [2 * TIB - 65_536, HOLE],
    ]);
    assert.equal(await client.command(Command.CACHE, 0, 5 * TIB), 0);
    assert.equal(await client.command(Command.WRITE_ZEROES, 65_536, 5 * TIB - 65_536, CommandFlag.FUA), 0);
    assert.equal(await client.command(Command.TRIM, 1, 4 * TIB), 0);
    assert.equal((await client.read(3 * TIB, 1)).data[0], 0);
    const one = await client.ask({
      type: Command.BLOCK_STATUS,
      offset: 4096,
      length: 5 * TIB - 4096,
      flags: CommandFlag.REQ_ONE,
    });
    assert.equal(one.data.length, 8 + 16);
  });

  it('skips a payload that a command does not take, refuses it, and goes on', async () => {
    const payload = Buffer.alloc(70_000, 0x25);
    for (const type of [Command.READ, Command.BLOCK_STATUS, Command.TRIM, Command.FLUSH, 0x7777]) {
      assert.equal((await client.ask({ type, length: payload.length, payload })).errno, Errno.EINVAL);
    }
    assert.equal(await client.write(0, payload), 0);
  });

  it('repeats offset and cookie as they came, whatever they are', async () => {
    client.socket.write(
      encodeRawRequest({ type: Command.TRIM, extended: true, cookie: 2n ** 64n - 1n }).fill(0xff, 8, 32),
    );
    const reply = await client.reply();
    assert.deepEqual(
      [reply.errno, reply.cookie, reply.offset],
      [Errno.EINVAL, 2n ** 64n - 1n, 2n ** 64n - 1n],
    );
  });

  it('ends with a payload past the maximum, and with a compact request', async () => {
    const write = { type: Command.WRITE, extended: true };
    for (const request of [
      { ...write, length: NBD_MAX_PAYLOAD + 1, flags: CommandFlag.PAYLOAD_LEN },
      { ...write, type: Command.BLOCK_STATUS, length: 2 ** 40, flags: CommandFlag.PAYLOAD_LEN },
      { ...write, length: NBD_MAX_PAYLOAD + 1 },
      { type: Command.FLUSH, extended: false },
    ]) {
      const bad = await RawClient.open(target.socket, 'd', { extended: true });
      bad.socket.write(Buffer.concat([encodeRawRequest(request), Buffer.alloc(100)]));
      await bad.closed();
    }
    assert.equal(await client.command(Command.FLUSH), 0);
  });

  it('takes a WRITE without the payload flag, its data right behind, as QEMU 10 sends it', async () => {
    const payload = randomBytes(4096);
    const header = encodeRawRequest({ type: Command.WRITE, extended: true, length: payload.length });
    assert.equal(header.readUInt16BE(4), 0);
    client.socket.write(Buffer.concat([header, payload]));
    assert.equal((await client.reply()).errno, 0);
    assert.ok((await client.read(0, payload.length)).data.equals(payload));
  });

  it('is agreed once, and not together with EXPORT_NAME', async () => {
    const other = await RawClient.connect(target.socket);
    const answer = async (option: number, data?: Buffer) => (await other.option(option, data)).at(-1)!.type;
    assert.equal(await answer(Option.EXTENDED_HEADERS, Buffer.from('x')), OptionReply.ERR_INVALID);
    assert.equal(await answer(Option.STRUCTURED_REPLY), OptionReply.ACK);
    assert.equal(await answer(Option.EXTENDED_HEADERS), OptionReply.ACK);
    assert.equal(await answer(Option.EXTENDED_HEADERS), OptionReply.ERR_INVALID);
    assert.equal(await answer(Option.STRUCTURED_REPLY), OptionReply.ERR_EXT_HEADER_REQD);
    void other.option(Option.EXPORT_NAME, Buffer.from('d')).catch(() => undefined);
    await other.closed();
  });
});
