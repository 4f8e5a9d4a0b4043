import { strict as assert } from 'node:assert';
import { ByteDriver } from '../../../src/nbd/byte-coroutine.ts';
import {
  Info,
  NBD_MAGIC,
  NBD_MAX_PAYLOAD,
  NBD_OLDSTYLE_MAGIC,
  Option,
  OptionReply,
  TransmissionFlag,
} from '../../../src/nbd/constants.ts';
import {
  type ClientHandshakeOptions,
  clientHandshake,
  HandshakeError,
} from '../../../src/nbd/handshake/client-handshake.ts';
import { FEATURES } from '../../../src/nbd/handshake/features.ts';
import { encodeGreeting, encodeOptionReply } from '../../../src/nbd/handshake/option-framing.ts';
import { type HandshakeHost, ServerHandshake } from '../../../src/nbd/handshake/server-handshake.ts';
import { ReceiveBuffer } from '../../../src/nbd/receive-buffer.ts';

const SIZE = 2 ** 40 + 512;
const FLAGS = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH;
const lease = '11111111-2222-4333-8444-555555555555';
const attach = { lease, uuid: null, generation: 0, name: 'disk' };
const host: HandshakeHost = {
  names: () => ['disk'],
  find: () => ({ size: SIZE, transmissionFlags: FLAGS }),
  brought: () => undefined,
  attach: () => ({ uuid: lease, generation: 3, fenced: false, size: SIZE }),
};

/**
 * The client's handshake with our server, byte by byte; `refuse` are options that the server does not know.
 */
function meet(options: Partial<ClientHandshakeOptions> = {}, refuse: number[] = []) {
  const server = new ServerHandshake(host);
  const input = new ReceiveBuffer(4096);
  const toClient: Buffer[] = [];
  const driver = new ByteDriver(
    clientHandshake({ exportName: 'disk', ...options }, (bytes) => {
      // Its flags come before its first option.
      const option = bytes.length >= 16 ? bytes.readUInt32BE(8) : -1;
      if (refuse.includes(option)) {
        toClient.push(encodeOptionReply(option, OptionReply.ERR_UNSUP, 'unknown'));
        return;
      }
      bytes.copy(input.space());
      input.filled(bytes.length);
      toClient.push(...server.feed(input));
    }),
  );
  toClient.push(server.greeting());
  for (let reply = toClient.shift(); reply !== undefined; reply = toClient.shift())
    for (const byte of reply) driver.feed(Buffer.from([byte]));
  assert.ok(driver.result !== null, 'agreed');
  return { offer: driver.result.value, agreement: server.agreement };
}

/** A server that says this, whatever it is asked. */
function hear(says: Buffer[], options: Partial<ClientHandshakeOptions> = {}) {
  const driver = new ByteDriver(clientHandshake({ exportName: 'disk', ...options }, () => undefined));
  for (const bytes of says) driver.feed(bytes);
  return driver.result?.value;
}

const number = (width: number, value: bigint | number) => {
  const bytes = Buffer.alloc(width);
  if (width === 8) bytes.writeBigUInt64BE(BigInt(value));
  else bytes.writeUIntBE(Number(value), 0, width);
  return bytes;
};
const unsup = (option: number) => encodeOptionReply(option, OptionReply.ERR_UNSUP);
/** Up to GO, everything refused. */
const plain = [encodeGreeting(), unsup(Option.EXTENDED_HEADERS), unsup(Option.STRUCTURED_REPLY)];
const exportInfo = (size: bigint) =>
  encodeOptionReply(
    Option.GO,
    OptionReply.INFO,
    Buffer.concat([number(2, Info.EXPORT), number(8, size), number(2, FLAGS)]),
  );
const goAck = encodeOptionReply(Option.GO, OptionReply.ACK);
const oldstyle = (size: bigint, flags = 0) =>
  Buffer.concat([
    number(8, NBD_MAGIC),
    number(8, NBD_OLDSTYLE_MAGIC),
    number(8, size),
    number(4, flags),
    Buffer.alloc(124),
  ]);

describe('client handshake', () => {
  it('agrees with our server on everything, extended headers first', () => {
    const { offer, agreement } = meet({ attach });
    assert.deepEqual(offer, {
      size: SIZE,
      flags: FLAGS | TransmissionFlag.SEND_DF,
      structured: true,
      extended: true,
      allocationContext: 1,
      attached: { uuid: lease, generation: 3, fenced: false, size: SIZE, epoch: 0 },
      features: FEATURES,
      minimumBlock: 1,
      maximumPayload: NBD_MAX_PAYLOAD,
    });
    assert.deepEqual(agreement, {
      structuredReplies: true,
      extendedHeaders: true,
      baseAllocation: true,
      attached: true,
      features: FEATURES,
    });
  });

  it('falls back step by step where a server knows less', () => {
    const { EXTENDED_HEADERS, STRUCTURED_REPLY, XNBD_ATTACH, GO } = Option;
    const structured = meet({ attach }, [EXTENDED_HEADERS, XNBD_ATTACH]).offer;
    assert.deepEqual(
      [structured.extended, structured.structured, structured.allocationContext, structured.attached],
      [false, true, 1, null],
    );
    const earlier = meet({ attach }, [Option.XNBD_FEATURES]).offer;
    assert.deepEqual([earlier.attached?.generation, earlier.features], [3, 0]);
    const simple = meet({}, [EXTENDED_HEADERS, STRUCTURED_REPLY]).offer;
    assert.deepEqual([simple.extended, simple.structured, simple.allocationContext], [false, false, null]);
    const oldest = meet({}, [EXTENDED_HEADERS, STRUCTURED_REPLY, GO]).offer;
    assert.deepEqual([oldest.size, oldest.flags], [SIZE, FLAGS]);
  });

  it('takes an oldstyle server only when told to (CVE-2019-14842)', () => {
    assert.throws(() => hear([oldstyle(4096n)]), /speaks oldstyle NBD only.*--allow-oldstyle/);
    const offer = hear([oldstyle(4096n, FLAGS)], { allowOldstyle: true, attach });
    assert.deepEqual(
      [offer?.size, offer?.flags, offer?.structured, offer?.extended, offer?.attached],
      [4096, FLAGS, false, false, null],
    );
  });

  describe('hostile servers', () => {
    it('a size that no disk has, or no double holds (CVE-2023-5215), in each way of telling it', () => {
      for (const size of [2n ** 64n - 1n, 2n ** 63n, 2n ** 63n - 1n, 2n ** 53n]) {
        const exportName = Buffer.concat([number(8, size), number(2, FLAGS)]);
        for (const [says, options] of [
          [[...plain, exportInfo(size), goAck], {}],
          [[...plain, unsup(Option.GO), exportName], {}],
          [[oldstyle(size)], { allowOldstyle: true }],
        ] as const) {
          assert.throws(() => hear([...says], options), /claims a size of \d+ bytes; at most 2\^53/);
        }
      }
      assert.equal(hear([...plain, exportInfo(2n ** 53n - 1n), goAck])?.size, 2 ** 53 - 1);
    });

    it('replies that are endless, too long, of another option, or without magic', () => {
      const info = encodeOptionReply(Option.EXTENDED_HEADERS, OptionReply.INFO, Buffer.alloc(2));
      const long = encodeOptionReply(Option.EXTENDED_HEADERS, OptionReply.ACK);
      long.writeUInt32BE(0xffffffff, 16);
      for (const [reply, error] of [
        [Buffer.concat(new Array<Buffer>(100).fill(info)), /more than 64 replies/],
        [long, /claims 4294967295 bytes/],
        [unsup(Option.LIST), /a reply to option 3 came for option 11/],
        [Buffer.alloc(20, 0x41), /no magic/],
      ] as const) {
        assert.throws(
          () => hear([encodeGreeting(), reply]),
          (thrown) => thrown instanceof HandshakeError && error.test(thrown.message),
        );
      }
      assert.throws(() => hear([Buffer.from('SSH-2.0-OpenSSH_9.2 whatever')]), /does not speak NBD/);
    });

    it('GO without a size, and block sizes that cannot be', () => {
      assert.throws(() => hear([...plain, goAck]), /gives no size/);
      const blocks = (minimum: number, maximum: number) =>
        encodeOptionReply(
          Option.GO,
          OptionReply.INFO,
          Buffer.concat([
            number(2, Info.BLOCK_SIZE),
            number(4, minimum),
            number(4, 4096),
            number(4, maximum),
          ]),
        );
      for (const [minimum, maximum] of [
        [0, 2 ** 25],
        [513, 2 ** 25],
        [2 ** 17, 2 ** 25],
        [1, 0],
        [1, 512],
      ] as const) {
        assert.throws(
          () => hear([...plain, exportInfo(4096n), blocks(minimum, maximum), goAck]),
          HandshakeError,
        );
      }
      const huge = hear([...plain, exportInfo(4096n), blocks(1, 0xffffffff), goAck]);
      assert.equal(huge?.maximumPayload, NBD_MAX_PAYLOAD, 'nobody makes us send or hold more');
    });

    it('an identity that is none, and control characters in the text of an error', () => {
      const attached = encodeOptionReply(
        Option.XNBD_ATTACH,
        OptionReply.XNBD_ATTACHED,
        Buffer.alloc(37, 0xff),
      );
      assert.throws(
        () => hear([...plain, attached, encodeOptionReply(Option.XNBD_ATTACH, OptionReply.ACK)], { attach }),
        HandshakeError,
      );
      const text = encodeOptionReply(Option.GO, OptionReply.ERR_POLICY, 'no\n2026 forged line \x1b[2J');
      assert.throws(
        () => hear([...plain, text]),
        (error: Error) => /^[\x20-\x7e]*$/.test(error.message),
      );
    });
  });
});
