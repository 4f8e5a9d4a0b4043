import { strict as assert } from 'node:assert';
import { randomBytes, randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import fc from 'fast-check';
import sinon from 'sinon';
import type { Disk } from '../../../src/export/disk.ts';
import {
  AllocationFlag,
  Command,
  CommandFlag,
  Errno,
  NBD_MAX_PAYLOAD,
  Option,
  ReplyChunk,
  TransmissionFlag,
} from '../../../src/nbd/constants.ts';
import type { Completion } from '../../../src/store/completion.ts';
import { encodeRawRequest, infoRequest, RawClient, type RawRequest } from '../../lab/nbd/raw-client.ts';
import { altered, serveTarget, type TestTarget, type TestTargetOptions } from '../../lab/nbd/serving.ts';
import { waitFor } from '../../lab/wait-for.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;

describe('session', () => {
  let target: TestTarget | undefined;
  const clients: RawClient[] = [];

  const start = async (options: TestTargetOptions = {}) => {
    target = await serveTarget({ sizeBytes: SIZE, ...options });
  };
  const open = async (structured = true) => {
    const client = await RawClient.open(target!.socket, 'd', { structured });
    clients.push(client);
    return client;
  };

  /** TAKEOVER by a lease holder: no write may be left counted. @returns errno */
  const fences = async () => {
    const attach = { lease: randomUUID(), uuid: null, generation: 0, name: 'd' };
    const holder = await RawClient.open(target!.socket, 'd', { attach });
    clients.push(holder);
    return holder.command(Command.XNBD_TAKEOVER);
  };

  afterEach(async () => {
    for (const client of clients.splice(0)) client.break();
    await target?.remove();
    target = undefined;
  });

  it('answers hundreds of trims, zeroings and CACHEs at once, and can be fenced after them', async () => {
    await start();
    const client = await open();
    const kinds = [Command.TRIM, Command.WRITE_ZEROES, Command.CACHE];
    const sent = Array.from({ length: 1500 }, (_, index) => ({
      type: kinds[index % kinds.length]!,
      offset: (index % 1000) * 4096,
      length: 4096,
    }));
    client.socket.write(Buffer.concat(sent.map((request) => encodeRawRequest(request))));
    for (let left = sent.length; left > 0; left--) assert.equal((await client.reply()).errno, 0);
    assert.equal(await client.command(Command.FLUSH), 0);
    assert.equal(await fences(), 0);
  });

  it('a disk that throws in the middle of a request fails that request, and nothing else', async () => {
    await start({
      alter: (served) => {
        const trim = () => {
          throw new Error('planted');
        };
        return { ...served, disk: altered(served.disk, { trim }) };
      },
    });
    const client = await open();
    assert.equal(await client.command(Command.TRIM, 0, 4096), Errno.EIO);
    assert.equal(await client.write(0, Buffer.alloc(4096, 1)), 0);
    assert.equal(await fences(), 0);
  });

  it('WRITEs that are half received count: they are read one by one, and no client waits for ever', async () => {
    await start();
    const half = encodeRawRequest({ type: Command.WRITE, length: NBD_MAX_PAYLOAD });
    const before = process.memoryUsage.rss();
    const greedy = await Promise.all(Array.from({ length: 40 }, () => open()));
    for (const client of greedy) client.socket.write(Buffer.concat([half, Buffer.alloc(MIB)]));
    const modest = await open();
    assert.equal(await modest.write(0, Buffer.alloc(4096, 1)), 0);
    assert.ok(process.memoryUsage.rss() - before < 700 * MIB);
    const { largeRequests } = target!.running.export;
    assert.ok(largeRequests.heldBytes > 0);
    assert.ok(largeRequests.heldBytes <= largeRequests.limitBytes);
    // What a client was waiting for comes when others leave.
    const last = greedy.pop()!;
    for (const client of greedy) client.break();
    last.socket.write(Buffer.alloc(NBD_MAX_PAYLOAD - MIB));
    assert.equal((await last.reply()).errno, 0);
    await waitFor('nothing is held', () => largeRequests.heldBytes === 0);
  });

  it('a client that does not finish its request is shown out, one that is slow to begin is not', async () => {
    await start();
    target!.running.export.largeRequests.requestMs = 100;
    const [idle, late] = [await open(), await open()];
    assert.equal(await idle.write(0, Buffer.alloc(4096, 1)), 0);
    late.socket.write(encodeRawRequest({ type: Command.WRITE, length: 4096 }));
    await late.closed();
    assert.equal(await idle.write(0, Buffer.alloc(4096, 1)), 0);
  });

  it('answers any mix of requests as a model of the disk does', async () => {
    await start({ sizeBytes: 1024 * 1024 });
    const client = await open();
    const model = Buffer.alloc(1024 * 1024);
    const step = fc.record({
      type: fc.constantFrom(Command.READ, Command.WRITE, Command.TRIM, Command.WRITE_ZEROES, Command.FLUSH),
      offset: fc.nat(model.length - 1),
      length: fc.integer({ min: 1, max: 100_000 }),
      flags: fc.constantFrom(0, CommandFlag.FUA),
      fill: fc.nat(255),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
        for (const { type, offset, length: wanted, flags, fill } of steps) {
          const length = Math.min(wanted, model.length - offset);
          const part = model.subarray(offset, offset + length);
          const request: RawRequest = { type, offset, length, flags };
          if (type === Command.WRITE) request.payload = Buffer.from(part.fill(fill));
          else if (type === Command.TRIM || type === Command.WRITE_ZEROES) part.fill(0);
          const reply = await client.ask(request);
          assert.equal(reply.errno, 0);
          if (type === Command.READ) assert.ok(reply.data.equals(part));
        }
      }),
      { numRuns: 40 },
    );
    assert.ok((await client.read(0, model.length)).data.equals(model));
  });

  it('takes hundreds of requests in one packet, and any of them cut at any byte', async () => {
    await start();
    const client = await open(false);
    const requests = Array.from({ length: 300 }, (_, index) => {
      const payload = Buffer.alloc(512, index % 251);
      return encodeRawRequest({
        type: Command.WRITE,
        offset: index * 512,
        length: 512,
        payload,
        cookie: BigInt(index),
      });
    });
    const bytes = Buffer.concat(requests);
    for (let at = 0; at < bytes.length; at += 4099) {
      client.socket.write(bytes.subarray(at, at + 4099));
      await new Promise(setImmediate);
    }
    for (let index = 0; index < 300; index++) assert.equal((await client.reply()).errno, 0);
    const { data } = await client.read(0, 300 * 512);
    for (let index = 0; index < 300; index++) assert.equal(data[index * 512 + 511], index % 251);
  });

  it('carries the largest payload', async () => {
    await start();
    const client = await open();
    const payload = randomBytes(NBD_MAX_PAYLOAD);
    assert.equal(await client.write(12_345, payload), 0);
    assert.ok((await client.read(12_345, payload.length)).data.equals(payload));
    assert.equal(target!.running.export.writtenBytes, payload.length);
  });

  it('answers in the order in which the disk does', async () => {
    let held: (() => void) | undefined;
    await start({
      alter: (served) => {
        const { disk } = served;
        const read = (into: Buffer, offset: number, done: Completion) => {
          if (offset === 0) held = () => disk.read(into, offset, done);
          else disk.read(into, offset, done);
        };
        return { ...served, disk: altered(disk, { read }) };
      },
    });
    const client = await open(false);
    await client.write(0, Buffer.alloc(8192, 1));
    await client.write(4096, Buffer.alloc(4096, 2));
    const slow = client.send({ type: Command.READ, offset: 0, length: 4096 });
    const quick = client.send({ type: Command.READ, offset: 4096, length: 4096 });
    const first = await client.reply(4096);
    assert.deepEqual([first.cookie, first.data[0]], [quick, 2]);
    held!();
    const second = await client.reply(4096);
    assert.deepEqual([second.cookie, second.data[0]], [slow, 1]);
  });

  it('judges range and flags, each with its error', async () => {
    await start();
    const client = await open();
    const { READ, WRITE, TRIM, WRITE_ZEROES, BLOCK_STATUS, FLUSH, CACHE } = Command;
    for (const [type, offset, length, flags, errno] of [
      [READ, SIZE - 1, 2, 0, Errno.EINVAL],
      [READ, 2 ** 60, 1, 0, Errno.EINVAL],
      [READ, 0, NBD_MAX_PAYLOAD + 1, 0, Errno.EOVERFLOW],
      [READ, 0, 0, 0, Errno.EINVAL],
      [TRIM, SIZE, 1, 0, Errno.EINVAL],
      [TRIM, 0, 1, CommandFlag.NO_HOLE, Errno.EINVAL],
      [WRITE_ZEROES, 1, SIZE, 0, Errno.ENOSPC],
      [WRITE_ZEROES, 0, 1, CommandFlag.DF, Errno.EINVAL],
      [BLOCK_STATUS, 0, SIZE + 1, 0, Errno.EINVAL],
      [FLUSH, 0, 0, CommandFlag.REQ_ONE, Errno.EINVAL],
      [CACHE, SIZE, 1, 0, Errno.EINVAL],
      [CACHE, 0, 1, CommandFlag.REQ_ONE, Errno.EINVAL],
      [Command.RESIZE, 0, SIZE * 2, 0, Errno.EINVAL],
      [FLUSH, 0, 0, CommandFlag.PAYLOAD_LEN, Errno.EINVAL],
      [0x7777, 0, 0, 0, Errno.EINVAL],
      [Command.XNBD_TAKEOVER, 0, 0, 0, Errno.EINVAL],
    ] as const) {
      assert.equal(await client.command(type, offset, length, flags), errno, `command ${type} at ${offset}`);
    }
    assert.equal(await client.write(SIZE - 1, Buffer.alloc(2)), Errno.ENOSPC);
    assert.equal(await client.write(0, Buffer.alloc(2), 1 << 9), Errno.EINVAL);
    assert.equal(await client.write(0, Buffer.alloc(2)), 0, 'and goes on');
    assert.equal(
      (await client.ask({ type: WRITE, offset: 2, length: 1, payload: Buffer.alloc(1) })).errno,
      0,
    );
  });

  it('a read-only export refuses every kind of write, and reads', async () => {
    await start({ readOnly: true });
    const client = await open();
    assert.equal(await client.write(0, Buffer.alloc(1)), Errno.EPERM);
    assert.equal(await client.command(Command.TRIM, 0, 1), Errno.EPERM);
    assert.equal(await client.command(Command.WRITE_ZEROES, 0, 1), Errno.EPERM);
    assert.equal((await client.read(0, 10)).errno, 0);
    assert.equal(await client.command(Command.FLUSH), 0);
  });

  it('never gives a READ a simple reply once structured ones are agreed, nor the other way round', async () => {
    await start();
    const [structured, simple] = [await open(true), await open(false)];
    for (const [offset, errno] of [
      [0, 0],
      [SIZE, Errno.EINVAL],
    ] as const) {
      const reply = await structured.ask({ type: Command.READ, offset, length: 1 });
      assert.deepEqual([reply.structured, reply.errno], [true, errno]);
      const other = await simple.ask({ type: Command.READ, offset, length: 1 });
      assert.deepEqual([other.structured, other.errno], [false, errno]);
    }
    assert.equal(await simple.command(Command.BLOCK_STATUS, 0, 1), Errno.EINVAL);
  });

  it('tells data and holes', async () => {
    await start();
    const client = await open();
    await client.write(1024 * 1024, Buffer.alloc(65_536, 1));
    const status = await client.ask({ type: Command.BLOCK_STATUS, length: SIZE });
    assert.equal(status.chunk, ReplyChunk.BLOCK_STATUS);
    const words = Array.from({ length: (status.data.length - 4) / 4 }, (_, index) =>
      status.data.readUInt32BE(4 + 4 * index),
    );
    const hole = AllocationFlag.HOLE | AllocationFlag.ZERO;
    assert.deepEqual(words, [1024 * 1024, hole, 65_536, 0, SIZE - 1024 * 1024 - 65_536, hole]);
    const one = await client.ask({ type: Command.BLOCK_STATUS, length: SIZE, flags: CommandFlag.REQ_ONE });
    assert.equal(one.data.length, 4 + 8);
  });

  it('offers DF where replies are structured, and answers such a READ in one piece', async () => {
    await start();
    const [structured, simple] = [await open(true), await open(false)];
    const reply = await structured.ask({
      type: Command.READ,
      length: NBD_MAX_PAYLOAD,
      flags: CommandFlag.DF,
    });
    assert.deepEqual([reply.chunk, reply.data.length], [ReplyChunk.OFFSET_DATA, NBD_MAX_PAYLOAD]);
    assert.equal(await simple.command(Command.READ, 0, 1, CommandFlag.DF), Errno.EINVAL);
    for (const [agreed, offered] of [
      [true, TransmissionFlag.SEND_DF],
      [false, 0],
    ] as const) {
      const client = await RawClient.connect(target!.socket);
      clients.push(client);
      if (agreed) await client.option(Option.STRUCTURED_REPLY);
      const [info] = await client.option(Option.INFO, infoRequest('d'));
      assert.equal(info!.data.readUInt16BE(10) & TransmissionFlag.SEND_DF, offered);
    }
  });

  it('a flush on one connection covers what all the others were told is written (MULTI_CONN)', async () => {
    const synced: number[] = [];
    let writes = 0;
    await start({
      alter: (served) => {
        const { disk } = served;
        const write: Disk['write'] = (data, offset, fua, done) => {
          disk.write(data, offset, fua, {
            complete: (errno) => {
              writes += 1;
              done.complete(errno);
            },
          });
        };
        const flush: Disk['flush'] = (done) => {
          const before = writes;
          disk.flush({
            complete: (errno) => {
              synced.push(before);
              done.complete(errno);
            },
          });
        };
        return { ...served, disk: altered(disk, { write, flush }) };
      },
    });
    const writers = [await open(), await open(false), await open()];
    const flusher = await open();
    for (let round = 1; round <= 5; round++) {
      const data = Buffer.alloc(4096, round);
      await Promise.all(writers.map((writer, index) => writer.write(index * 4096, data)));
      assert.equal(await flusher.command(Command.FLUSH), 0);
      assert.equal(synced.at(-1), 3 * round, 'the one disk was synced, with all writes before');
      // What one was told is written, every other one reads at once.
      for (const reader of [...writers, flusher]) {
        assert.ok((await reader.read(0, 3 * 4096)).data.every((byte) => byte === round));
      }
    }
  });

  it('zeroes fast where the file system can, holes or not, and says so at once where it cannot', async () => {
    await start();
    const client = await open();
    const { FAST_ZERO, NO_HOLE } = CommandFlag;
    await client.write(0, Buffer.alloc(3 * MIB, 7));
    const { blocks } = statSync(target!.image);
    assert.equal(await client.command(Command.WRITE_ZEROES, 4096, MIB, FAST_ZERO), 0, 'a hole');
    assert.ok(statSync(target!.image).blocks <= blocks - MIB / 512, 'is one');
    const errno = await client.command(Command.WRITE_ZEROES, 2 * MIB, MIB, FAST_ZERO | NO_HOLE);
    const { data } = await client.read(0, 3 * MIB);
    const expected = Buffer.alloc(3 * MIB, 7).fill(0, 4096, 4096 + MIB);
    // Which of the two depends on the file system of the temporary directory.
    if (errno === 0) expected.fill(0, 2 * MIB);
    else assert.equal(errno, Errno.ENOTSUP);
    assert.ok(data.equals(expected), 'and ENOTSUP has changed nothing');
    assert.equal(
      await client.command(Command.WRITE_ZEROES, 2 * MIB, MIB, NO_HOLE),
      0,
      'slowly it always can',
    );
    assert.ok((await client.read(2 * MIB, MIB)).data.every((byte) => byte === 0));
    // Of the three megabytes one, less its first block, is a hole.
    assert.ok(statSync(target!.image).blocks >= (2 * MIB) / 512, 'with its space');
  });

  it('takes CACHE, which changes nothing', async () => {
    await start();
    const client = await open();
    await client.write(0, Buffer.alloc(4096, 1));
    assert.equal(await client.command(Command.CACHE, 0, SIZE), 0);
    assert.ok((await client.read(0, 4096)).data.equals(Buffer.alloc(4096, 1)));
  });

  it('answers ESHUTDOWN to what comes while it stops and others are under way', async () => {
    const held: (() => void)[] = [];
    await start({
      alter: (served) => {
        const { disk } = served;
        const read: Disk['read'] = (into, offset, done) => {
          held.push(() => disk.read(into, offset, done));
        };
        return { ...served, disk: altered(disk, { read }) };
      },
    });
    const [busy, idle] = [await open(), await open()];
    const first = busy.send({ type: Command.READ, length: 512 });
    await waitFor('the read is under way', () => held.length === 1);
    const stopped = target!.running.stop();
    await idle.closed();
    const late = busy.send({ type: Command.WRITE, length: 512, payload: Buffer.alloc(512) });
    const refused = await busy.reply();
    assert.deepEqual([refused.cookie, refused.errno], [late, Errno.ESHUTDOWN]);
    const also = busy.send({ type: Command.READ, length: 512 });
    const chunk = await busy.reply();
    assert.deepEqual([chunk.cookie, chunk.errno, chunk.structured], [also, Errno.ESHUTDOWN, true]);
    held[0]!();
    const answered = await busy.reply();
    assert.deepEqual([answered.cookie, answered.errno], [first, 0]);
    await busy.closed();
    assert.equal(await stopped, 0);
  });

  it('stops reading a client that does not read, and answers it all the same in the end', async () => {
    let reads = 0;
    await start({
      alter: (served) => {
        const read = (_into: Buffer, _offset: number, done: Completion) => {
          reads += 1;
          done.complete(0);
        };
        return { ...served, disk: altered(served.disk, { read }) };
      },
    });
    const client = await open(false);
    client.socket.pause();
    const request = encodeRawRequest({ type: Command.READ, offset: 0, length: 1024 * 1024 });
    const count = 400;
    client.socket.write(Buffer.concat(Array.from({ length: count }, () => request)));
    await waitFor('reads begin', () => reads > 0);
    const other = await open();
    for (let turn = 0; turn < 50; turn++) await other.command(Command.FLUSH);
    // The kernel takes one or two, and one waits until it takes more.
    assert.ok(reads < 8, `${reads} MiB read for a client that takes nothing`);
    client.socket.resume();
    let received = 0;
    const perReply = 16 + 1024 * 1024;
    for (; received < count; received++) await client.take(perReply);
    assert.equal(reads, count);
  });

  it('gives each of many clients its share of memory, and one that makes only the largest requests no more (CVE-2025-47711)', async () => {
    let [underWay, most] = [0, 0];
    const held: (() => void)[] = [];
    await start({
      alter: (served) => {
        const read: Disk['read'] = (into, _offset, done) => {
          underWay += into.length;
          most = Math.max(most, underWay);
          held.push(() => {
            underWay -= into.length;
            done.complete(0);
          });
        };
        return { ...served, disk: altered(served.disk, { read }) };
      },
    });
    for (let count = 0; count < 32; count++) await open();
    const greedy = clients[0]!;
    const count = 12;
    for (let sent = 0; sent < count; sent++)
      greedy.send({ type: Command.READ, length: NBD_MAX_PAYLOAD, offset: sent });
    for (let answered = 0; answered < count; answered++) {
      await waitFor('a read is under way', () => held.length > 0);
      assert.equal(await clients[31]!.command(Command.FLUSH), 0, 'the others are served');
      held.shift()!();
      await greedy.take(20 + 8 + NBD_MAX_PAYLOAD);
    }
    // A 32nd of 256 MiB is less than one request, which is let in all the same.
    assert.equal(most, NBD_MAX_PAYLOAD);
  });

  it('lets others in between the requests of one that floods it', async () => {
    let reads = 0;
    await start({
      alter: (served) => {
        const read: Disk['read'] = (_into, _offset, done) => {
          reads += 1;
          for (const end = performance.now() + 0.5; performance.now() < end; );
          done.complete(0);
        };
        return { ...served, disk: altered(served.disk, { read }) };
      },
    });
    const [flooding, other] = [await open(false), await open(false)];
    const total = 1500;
    const request = encodeRawRequest({ type: Command.READ, length: 1 });
    flooding.socket.write(Buffer.concat(new Array<Buffer>(total).fill(request)));
    await waitFor('the flood has begun', () => reads > 0);
    assert.equal(await other.command(Command.FLUSH), 0);
    assert.ok(reads < total / 2, `${reads} of ${total} came first`);
    await flooding.take(total * 17);
  });

  it('drops who does not finish the handshake in time (CVE-2024-7409), and does not wait for him when it stops', async () => {
    await start();
    const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    let late: RawClient;
    try {
      late = await RawClient.connect(target!.socket);
      // The greeting is here, so its time runs.
      await clock.tickAsync(31_000);
    } finally {
      clock.restore();
    }
    await late.closed();
    const halfway = await RawClient.connect(target!.socket, null);
    const began = performance.now();
    assert.equal(await target!.running.stop(), 0);
    await halfway.closed();
    assert.ok(performance.now() - began < 5000);
  });

  it('outlives clients that leave in the midst of anything (CVE-2013-7441), a handshake or an unknown export', async () => {
    await start();
    const write = encodeRawRequest({ type: Command.WRITE, length: 100_000, payload: Buffer.alloc(50_000) });
    for (const bytes of [Buffer.alloc(0), write.subarray(0, 13), write, Buffer.alloc(28, 0x55)]) {
      const client = await open();
      client.socket.write(bytes);
      await new Promise(setImmediate);
      client.break();
      const haggling = await RawClient.connect(target!.socket, bytes.length === 0 ? null : 3);
      haggling.socket.write(bytes.subarray(0, 7));
      haggling.break();
    }
    const lost = await RawClient.connect(target!.socket);
    void lost.option(Option.EXPORT_NAME, Buffer.from('unknown')).catch(() => undefined);
    await lost.closed();
    const client = await open();
    assert.equal(await client.command(Command.FLUSH), 0);
    await waitFor('the others are gone', () => target!.running.export.clients === 1);
  });

  it('takes no more connections than it can bear, and those that say nothing make room', async () => {
    await start();
    const silent = [];
    for (let count = 0; count < 256; count++) silent.push(await RawClient.connect(target!.socket));
    clients.push(...silent);
    const client = await open();
    assert.equal(await client.command(Command.FLUSH), 0);
    await silent[0]!.closed();
    assert.equal(silent[1]!.socket.destroyed, false);
  });

  it('drops a client that breaks the protocol, and only that one', async () => {
    await start();
    const [good, bad, greedy] = [await open(), await open(), await open()];
    bad.socket.write(Buffer.alloc(28, 0x55));
    greedy.socket.write(encodeRawRequest({ type: Command.WRITE, length: 0xffffffff }));
    await Promise.all([bad.closed(), greedy.closed()]);
    assert.equal(await good.command(Command.FLUSH), 0);
  });

  it('keeps nothing of what a client sends after its goodbye', async () => {
    let held: Completion | undefined;
    await start({
      alter: (served) => ({
        ...served,
        disk: altered(served.disk, { read: (_into, _offset, done) => (held = done) }),
      }),
    });
    const client = await open();
    client.send({ type: Command.READ, offset: 0, length: 512 });
    client.send({ type: Command.DISC });
    await waitFor('the read', () => held !== undefined);
    const before = process.memoryUsage().arrayBuffers;
    const rubbish = Buffer.alloc(MIB);
    for (let sent = 0; sent < 64; sent++)
      await new Promise<void>((resolve) => client.socket.write(rubbish, () => resolve()));
    const grown = process.memoryUsage().arrayBuffers - before;
    assert.ok(grown < 16 * MIB, `${grown} bytes are kept`);
    held!.complete(0);
    assert.equal((await client.reply(512)).errno, 0);
    await client.closed();
  });

  it('answers what is under way before it disconnects, and before it stops', async () => {
    const held: (() => void)[] = [];
    await start({
      alter: (served) => {
        const { disk } = served;
        const read = (into: Buffer, offset: number, done: Completion) => {
          held.push(() => disk.read(into, offset, done));
        };
        return { ...served, disk: altered(disk, { read }) };
      },
    });
    const [leaving, staying] = [await open(), await open()];
    leaving.send({ type: Command.READ, length: 4096 });
    leaving.send({ type: Command.DISC });
    staying.send({ type: Command.READ, length: 4096 });
    await waitFor('both reads are under way', () => held.length === 2);
    const stopped = target!.running.stop();
    for (const finish of held) finish();
    assert.equal((await leaving.reply(4096)).data.length, 4096);
    assert.equal((await staying.reply(4096)).data.length, 4096);
    assert.equal(await stopped, 0);
    await Promise.all([leaving.closed(), staying.closed()]);
  });
});
