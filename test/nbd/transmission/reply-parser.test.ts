import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { RequestTable } from '../../../src/client/request-table.ts';
import { ByteDriver } from '../../../src/nbd/byte-coroutine.ts';
import {
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  ReplyChunk,
} from '../../../src/nbd/constants.ts';
import { parseReplies, ReplyError } from '../../../src/nbd/transmission/reply-parser.ts';
import type { Extent } from '../../../src/store/completion.ts';

const DONE = 1;
const number = (width: number, value: bigint | number) => {
  const bytes = Buffer.alloc(width);
  if (width === 8) bytes.writeBigUInt64BE(BigInt(value));
  else bytes.writeUIntBE(Number(value), 0, width);
  return bytes;
};
const u16 = (value: number) => number(2, value);
const u32 = (value: number) => number(4, value);
const u64 = (value: number | bigint) => number(8, value);

const simple = (cookie: number, errno: number, data = Buffer.alloc(0)) =>
  Buffer.concat([u32(NBD_SIMPLE_REPLY_MAGIC), u32(errno), u64(cookie), data]);
const chunk = (cookie: number, type: number, body: Buffer, flags = DONE) =>
  Buffer.concat([
    u32(NBD_STRUCTURED_REPLY_MAGIC),
    u16(flags),
    u16(type),
    u64(cookie),
    u32(body.length),
    body,
  ]);
const extended = (cookie: number, type: number, body: Buffer, offset: number | bigint = 8192, flags = DONE) =>
  Buffer.concat([
    u32(NBD_EXTENDED_REPLY_MAGIC),
    u16(flags),
    u16(type),
    u64(cookie),
    u64(offset),
    u64(body.length),
    body,
  ]);
const dataAt = (offset: number, data: Buffer) => Buffer.concat([u64(offset), data]);

/**
 * A read of 4096 bytes at 8192 (cookie 1), a BLOCK_STATUS there (cookie 2), a command without data (cookie
 * 3).
 */
function underWay(style: 'simple' | 'structured' | 'extended') {
  const table = new RequestTable(1);
  const into = Buffer.alloc(4096, 0xee);
  const told: { read?: number; status?: number; extents?: readonly Extent[]; other?: number } = {};
  table.add(8192, { into, done: { complete: (errno) => (told.read = errno) } });
  table.add(8192, {
    extentsDone: {
      complete: (errno, extents) => {
        told.status = errno;
        told.extents = extents;
      },
    },
  });
  table.add(8192, { done: { complete: (errno) => (told.other = errno) } });
  const agreed = { structured: style !== 'simple', extended: style === 'extended' };
  const driver = new ByteDriver(parseReplies(agreed, table));
  return { into, told, feed: (...bytes: Buffer[]) => driver.feed(Buffer.concat(bytes)) };
}

describe('reply parser', () => {
  it('puts the pieces of a read where they belong, in any order and cut anywhere', () => {
    const data = Buffer.from(Array.from({ length: 4096 }, (_, index) => index % 251));
    const bytes = Buffer.concat([
      chunk(1, ReplyChunk.OFFSET_DATA, dataAt(8192 + 1000, data.subarray(1000, 3000)), 0),
      chunk(3, ReplyChunk.NONE, Buffer.alloc(0)),
      chunk(1, ReplyChunk.OFFSET_HOLE, Buffer.concat([u64(8192 + 3000), u32(1096)]), 0),
      chunk(1, ReplyChunk.OFFSET_DATA, dataAt(8192, data.subarray(0, 1000))),
    ]);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 300 }), (step) => {
        const { into, told, feed } = underWay('structured');
        for (let at = 0; at < bytes.length; at += step) feed(bytes.subarray(at, at + step));
        assert.deepEqual([told.read, told.other], [0, 0]);
        assert.ok(into.equals(Buffer.concat([data.subarray(0, 3000), Buffer.alloc(1096)])));
      }),
    );
  });

  it('puts up with a piece for each byte, but not with one sent twice, nor with too many out of order', () => {
    const { into, told, feed } = underWay('structured');
    const piece = (at: number, flags = 0) =>
      chunk(1, ReplyChunk.OFFSET_DATA, dataAt(8192 + at, Buffer.from([at % 251])), flags);
    for (let at = 2047; at > 0; at--) feed(piece(at));
    for (const at of [0, ...Array.from({ length: 2048 }, (_, index) => 2048 + index)])
      feed(piece(at, at === 4095 ? DONE : 0));
    assert.equal(told.read, 0);
    assert.ok(into.every((byte, at) => byte === at % 251));
    assert.throws(() => underWay('structured').feed(piece(9), piece(9)), ReplyError);
    const hostile = underWay('structured');
    assert.throws(() => {
      for (let at = 4095; at > 0; at--) hostile.feed(piece(at));
    }, ReplyError);
  });

  it('reads extended replies, with extents of more than 4 GiB', () => {
    const { into, told, feed } = underWay('extended');
    const extents = Buffer.concat([u32(1), u32(2), u64(2 ** 40), u64(3), u64(512), u64(0)]);
    feed(
      extended(3, ReplyChunk.NONE, Buffer.alloc(0)),
      extended(2, ReplyChunk.BLOCK_STATUS_EXT, extents),
      extended(1, ReplyChunk.OFFSET_DATA, dataAt(8192, Buffer.alloc(4096, 7))),
    );
    assert.deepEqual(told, {
      read: 0,
      status: 0,
      other: 0,
      extents: [
        { length: 2 ** 40, flags: 3 },
        { length: 512, flags: 0 },
      ],
    });
    assert.ok(into.every((byte) => byte === 7));
  });

  it('an error after some data is an error, whatever came before (CVE-2022-0485)', () => {
    const error = Buffer.concat([u32(5), u16(0)]);
    const data = dataAt(8192, Buffer.alloc(4096));
    const structured = underWay('structured');
    structured.feed(chunk(1, ReplyChunk.OFFSET_DATA, data, 0), chunk(1, ReplyChunk.ERROR, error));
    assert.equal(structured.told.read, 5);
    const wide = underWay('extended');
    wide.feed(extended(1, ReplyChunk.OFFSET_DATA, data, 8192, 0), extended(1, ReplyChunk.ERROR, error));
    assert.equal(wide.told.read, 5);
    const { told, feed } = underWay('simple');
    feed(simple(1, 5));
    assert.equal(told.read, 5);
  });

  it('an answer that covers a read in part only is none', () => {
    const { feed } = underWay('structured');
    assert.throws(
      () => feed(chunk(1, ReplyChunk.OFFSET_DATA, dataAt(8192, Buffer.alloc(4095)))),
      /answered with 4095 in a row/,
    );
  });

  it('ignores flags of extents that nobody knows (CVE-2023-5871)', () => {
    const { told, feed } = underWay('structured');
    feed(chunk(2, ReplyChunk.BLOCK_STATUS, Buffer.concat([u32(1), u32(4096), u32(0xfffffffe)])));
    assert.deepEqual(told.extents, [{ length: 4096, flags: 2 }]);
    const other = underWay('extended');
    const body = Buffer.concat([u32(1), u32(1), u64(4096), u64(2n ** 64n - 4n)]);
    other.feed(extended(2, ReplyChunk.BLOCK_STATUS_EXT, body));
    assert.deepEqual(other.told.extents, [{ length: 4096, flags: 0 }]);
  });

  it('ends with whatever does not fit: each names what', () => {
    const read = (offset: number, length: number) =>
      chunk(1, ReplyChunk.OFFSET_DATA, dataAt(offset, Buffer.alloc(length)));
    const status = (...words: number[]) =>
      chunk(2, ReplyChunk.BLOCK_STATUS, Buffer.concat(words.map((word) => u32(word))));
    const far = chunk(1, ReplyChunk.OFFSET_DATA, Buffer.concat([u64(2n ** 63n), Buffer.alloc(8)]));
    const endless = extended(1, ReplyChunk.OFFSET_DATA, dataAt(8192, Buffer.alloc(8)));
    endless.writeBigUInt64BE(2n ** 63n, 24);
    const nobodysError = chunk(3, ReplyChunk.ERROR, Buffer.concat([u32(5), u16(9999)]));
    nobodysError.writeUInt32BE(0xffffffff, 16);
    const extents = (count: number, length: bigint) =>
      extended(2, ReplyChunk.BLOCK_STATUS_EXT, Buffer.concat([u32(1), u32(count), u64(length), u64(0)]));
    for (const [style, bytes, error] of [
      ['simple', Buffer.alloc(4, 0x41), /begins with 0x41414141/],
      ['simple', chunk(3, ReplyChunk.NONE, Buffer.alloc(0)), /begins with 0x668e33ef/],
      ['structured', simple(1, 0), /a READ got a simple reply/],
      ['structured', simple(99, 0), /request 99, which is not under way/],
      ['structured', read(4096, 4096), /does not fit/],
      ['structured', read(8192, 4097), /does not fit/],
      ['structured', far, /lies at offset/],
      ['structured', chunk(3, ReplyChunk.OFFSET_DATA, dataAt(0, Buffer.alloc(1))), /does not fit/],
      ['structured', chunk(1, 77, Buffer.alloc(0)), /unknown type 77/],
      ['structured', status(1, 0, 0), /no length/],
      ['structured', status(2, 4096, 0), /for context 2/],
      ['structured', status(1, 4096), /claims 8 bytes/],
      ['structured', chunk(1, ReplyChunk.BLOCK_STATUS, Buffer.alloc(12, 1)), /came unasked/],
      ['structured', nobodysError, /claims 4294967295 bytes/],
      ['extended', simple(3, 0), /begins with 0x67446698/],
      [
        'extended',
        extended(3, ReplyChunk.NONE, Buffer.alloc(0), 4096),
        /for offset 4096 to a request at 8192/,
      ],
      ['extended', endless, /claims 9223372036854775808 bytes/],
      ['extended', extents(2, 4096n), /2 extents are announced/],
      ['extended', extents(1, 0n), /a length of 0/],
      ['extended', extents(1, 2n ** 63n), /a length of 9223372036854775808/],
    ] as const) {
      assert.throws(
        () => underWay(style).feed(bytes),
        (thrown) => thrown instanceof ReplyError && error.test(thrown.message),
        String(error),
      );
    }
  });
});
