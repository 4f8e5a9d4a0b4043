import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { Info, Option, OptionReply, TransmissionFlag } from '../../../src/nbd/constants.ts';
import { decodeAttached, encodeAttachRequest } from '../../../src/nbd/handshake/attach.ts';
import { encodeOption } from '../../../src/nbd/handshake/option-framing.ts';
import { type HandshakeHost, ServerHandshake } from '../../../src/nbd/handshake/server-handshake.ts';
import { ReceiveBuffer } from '../../../src/nbd/receive-buffer.ts';
import { infoRequest, metaContext } from '../../lab/nbd/raw-client.ts';

const SIZE = 2 ** 40 + 512;
const FLAGS = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH;
const host: HandshakeHost = {
  names: () => ['disk', 'zwei'],
  find: (name) =>
    name === 'disk' || name === 'zwei' || name === ''
      ? { size: SIZE, transmissionFlags: FLAGS }
      : { type: OptionReply.ERR_UNKNOWN, text: 'no such export' },
  brought: () => undefined,
  attach: (request) =>
    request.name === 'disk'
      ? { uuid: request.lease, generation: 3, fenced: false, size: SIZE }
      : { type: OptionReply.ERR_POLICY, text: 'lent already' },
};
const clientFlags = (flags = 3) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  return bytes;
};

/** Feeds `pieces` one after the other. */
function haggle(pieces: Buffer[], capacity = 64) {
  const handshake = new ServerHandshake(host);
  const input = new ReceiveBuffer(capacity);
  const output: Buffer[] = [];
  for (const piece of pieces) {
    let rest = piece;
    while (rest.length > 0) {
      const space = input.space();
      const count = Math.min(space.length, rest.length);
      rest.copy(space, 0, 0, count);
      input.filled(count);
      rest = rest.subarray(count);
      output.push(...handshake.feed(input));
    }
  }
  return { handshake, input, output: Buffer.concat(output) };
}

function replies(bytes: Buffer): { option: number; type: number; data: Buffer }[] {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + 20 + bytes.readUInt32BE(at + 16);
    found.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      data: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return found;
}

const answers = (...options: Buffer[]) => replies(haggle([clientFlags(), ...options]).output);
const types = (...options: Buffer[]) => answers(...options).map(({ type }) => type);

describe('server handshake', () => {
  it('greets as fixed newstyle', () => {
    assert.equal(
      new ServerHandshake(host).greeting().toString('hex'),
      '4e42444d4147494349484156454f50540003',
    );
  });

  it('gives the same answers to a dialogue whole and split at every byte', () => {
    const dialogue = Buffer.concat([
      clientFlags(),
      encodeOption(Option.STRUCTURED_REPLY, Buffer.alloc(0)),
      encodeOption(Option.LIST, Buffer.alloc(0)),
      encodeOption(99, Buffer.from('whatever')),
      encodeOption(Option.SET_META_CONTEXT, metaContext('disk', ['base:allocation', 'qemu:x'])),
      encodeOption(Option.INFO, infoRequest('none')),
      encodeOption(Option.GO, infoRequest('disk', [Info.BLOCK_SIZE, Info.NAME])),
      Buffer.from('first bytes of transmission'),
    ]);
    const whole = haggle([dialogue], 4096);
    assert.equal(whole.handshake.state, 'transmission');
    assert.deepEqual(whole.handshake.agreement, {
      structuredReplies: true,
      extendedHeaders: false,
      baseAllocation: true,
      attached: false,
      features: 0,
    });
    assert.deepEqual(
      replies(whole.output).map(({ type }) => type),
      [
        OptionReply.ACK,
        OptionReply.SERVER,
        OptionReply.SERVER,
        OptionReply.ACK,
        OptionReply.ERR_UNSUP,
        OptionReply.META_CONTEXT,
        OptionReply.ACK,
        OptionReply.ERR_UNKNOWN,
        OptionReply.INFO,
        OptionReply.INFO,
        OptionReply.ACK,
      ],
    );
    for (let at = 1; at < dialogue.length; at++) {
      const split = haggle([dialogue.subarray(0, at), dialogue.subarray(at)]);
      assert.equal(split.handshake.state, 'transmission');
      assert.ok(split.output.equals(whole.output), `split at ${at}`);
      const left = split.input.bytes.subarray(split.input.start, split.input.end).toString();
      assert.equal(left, 'first bytes of transmission');
    }
  });

  it('tells size, flags and block sizes', () => {
    const [info, blocks] = answers(encodeOption(Option.GO, infoRequest('disk', [Info.BLOCK_SIZE])));
    assert.equal(info!.data.readBigUInt64BE(2), BigInt(SIZE));
    assert.equal(info!.data.readUInt16BE(10), FLAGS);
    assert.deepEqual(
      [2, 6, 10].map((at) => blocks!.data.readUInt32BE(at)),
      [1, 4096, 32 * 1024 * 1024],
    );
  });

  it('answers EXPORT_NAME with and without the zeroes', () => {
    const named = encodeOption(Option.EXPORT_NAME, Buffer.from('disk'));
    assert.equal(haggle([clientFlags(3), named]).output.length, 10);
    const { output, handshake } = haggle([clientFlags(1), named]);
    assert.equal(output.length, 134);
    assert.equal(output.readBigUInt64BE(0), BigInt(SIZE));
    assert.equal(handshake.state, 'transmission');
  });

  it('ends with EXPORT_NAME of an unknown export, as that has no way to say no', () => {
    const { output, handshake } = haggle([
      clientFlags(),
      encodeOption(Option.EXPORT_NAME, Buffer.from('x\n')),
    ]);
    assert.equal(output.length, 0);
    assert.equal(handshake.state, 'closed');
    assert.equal(handshake.closedBecause, "client asked for export 'x?': no such export");
  });

  it('acknowledges ABORT and ends', () => {
    const { output, handshake } = haggle([clientFlags(), encodeOption(Option.ABORT, Buffer.alloc(0))]);
    assert.deepEqual(replies(output)[0]?.type, OptionReply.ACK);
    assert.equal(handshake.state, 'closed');
  });

  it('lists base:allocation for no query, for base: and for itself, and nothing for others', () => {
    const structured = encodeOption(Option.STRUCTURED_REPLY, Buffer.alloc(0));
    const list = (queries: string[]) =>
      types(structured, encodeOption(Option.LIST_META_CONTEXT, metaContext('disk', queries))).slice(1);
    for (const queries of [[], ['base:'], ['base:allocation']]) {
      assert.deepEqual(list(queries), [OptionReply.META_CONTEXT, OptionReply.ACK]);
    }
    assert.deepEqual(list(['qemu:', 'base:allo']), [OptionReply.ACK]);
  });

  it('gives no context without structured replies, nor for another export than that of GO', () => {
    const set = encodeOption(Option.SET_META_CONTEXT, metaContext('zwei', ['base:allocation']));
    assert.deepEqual(types(set), [OptionReply.ERR_INVALID]);
    const structured = encodeOption(Option.STRUCTURED_REPLY, Buffer.alloc(0));
    const go = encodeOption(Option.GO, infoRequest('disk'));
    assert.equal(haggle([clientFlags(), structured, set, go]).handshake.agreement.baseAllocation, false);
  });

  it('a SET_META_CONTEXT that fails or asks for nothing takes the context back', () => {
    const structured = encodeOption(Option.STRUCTURED_REPLY, Buffer.alloc(0));
    const set = encodeOption(Option.SET_META_CONTEXT, metaContext('disk', ['base:allocation']));
    const go = encodeOption(Option.GO, infoRequest('disk'));
    for (const again of [metaContext('none', ['base:allocation']), metaContext('disk', [])]) {
      const pieces = [clientFlags(), structured, set, encodeOption(Option.SET_META_CONTEXT, again), go];
      assert.equal(haggle(pieces).handshake.agreement.baseAllocation, false);
    }
  });

  it('attaches once, and then goes on with the same export only', () => {
    const lease = '11111111-2222-4333-8444-555555555555';
    const attach = (name: string) =>
      encodeOption(Option.XNBD_ATTACH, encodeAttachRequest({ lease, uuid: null, generation: 0, name }));
    const found = answers(
      attach('other'),
      attach('disk'),
      attach('disk'),
      encodeOption(Option.GO, infoRequest('zwei')),
    );
    assert.deepEqual(
      found.map(({ type }) => type),
      [
        OptionReply.ERR_POLICY,
        OptionReply.XNBD_ATTACHED,
        OptionReply.ACK,
        OptionReply.ERR_INVALID,
        OptionReply.ERR_INVALID,
      ],
    );
    assert.deepEqual(decodeAttached(found[1]!.data), {
      uuid: lease,
      generation: 3,
      fenced: false,
      size: SIZE,
      epoch: 0,
    });
    assert.match(found[4]!.data.toString(), /attached to export 'disk', not 'zwei'/);
  });

  describe('hostile input', () => {
    it('a name length of 0xffffffff (CVE-2022-26495), in every option that has a name', () => {
      for (const option of [Option.INFO, Option.GO, Option.SET_META_CONTEXT, Option.LIST_META_CONTEXT]) {
        const data = infoRequest('disk');
        data.writeUInt32BE(0xffffffff, 0);
        assert.deepEqual(types(encodeOption(option, data)), [OptionReply.ERR_INVALID]);
      }
    });

    it('an option longer than any can be (CVE-2017-15119): refused and closed before its data come', () => {
      const header = encodeOption(Option.GO, Buffer.alloc(0));
      header.writeUInt32BE(0xffffffff, 12);
      const { output, handshake } = haggle([clientFlags(), header]);
      assert.deepEqual(replies(output)[0]?.type, OptionReply.ERR_TOO_BIG);
      assert.equal(handshake.state, 'closed');
    });

    it('INFO and GO with a tail, or more infos than bytes (CVE-2022-26496)', () => {
      const tail = Buffer.concat([infoRequest('disk'), Buffer.alloc(3000)]);
      const many = infoRequest('disk');
      many.writeUInt16BE(0xffff, many.length - 2);
      for (const data of [tail, many, Buffer.alloc(0), Buffer.alloc(3)]) {
        assert.deepEqual(types(encodeOption(Option.GO, data)), [OptionReply.ERR_INVALID]);
      }
    });

    it('contexts: a count of 0xffffffff', () => {
      const data = metaContext('disk', []);
      data.writeUInt32BE(0xffffffff, data.length - 4);
      const structured = encodeOption(Option.STRUCTURED_REPLY, Buffer.alloc(0));
      assert.deepEqual(types(structured, encodeOption(Option.SET_META_CONTEXT, data)).slice(1), [
        OptionReply.ERR_INVALID,
      ]);
    });

    it('a long name (CVE-2017-15118), and one longer than NBD allows', () => {
      assert.deepEqual(types(encodeOption(Option.GO, infoRequest('x'.repeat(3000)))), [
        OptionReply.ERR_UNKNOWN,
      ]);
      const long = 'x'.repeat(5000);
      assert.deepEqual(types(encodeOption(Option.GO, infoRequest(long))), [OptionReply.ERR_INVALID]);
      const { handshake } = haggle([clientFlags(), encodeOption(Option.EXPORT_NAME, Buffer.from(long))]);
      assert.equal(handshake.state, 'closed');
    });

    it('any options with any data: answered one by one, and never more than asked', () => {
      const known = fc.constantFrom(
        ...Object.values(Option).filter((option) => option !== Option.EXPORT_NAME),
      );
      const data = fc.oneof(
        fc.uint8Array({ maxLength: 60 }),
        fc.constantFrom(infoRequest('disk'), metaContext('disk', ['base:allocation']), Buffer.from('XNBD')),
      );
      fc.assert(
        fc.property(fc.array(fc.tuple(known, data), { maxLength: 30 }), (options) => {
          const sent = options.map(([option, bytes]) => encodeOption(option, Buffer.from(bytes)));
          const { output, handshake } = haggle([clientFlags(), ...sent]);
          const last = replies(output).filter(({ type }) => type === OptionReply.ACK || type >= 2 ** 31);
          if (handshake.state === 'haggling') assert.equal(last.length, options.length);
          for (const [index, { option }] of last.entries()) assert.equal(option, options[index]![0]);
        }),
      );
    });

    it('options without end, unknown flags, a wrong magic', () => {
      const endless = haggle([
        clientFlags(),
        ...Array.from({ length: 200 }, () => encodeOption(99, Buffer.alloc(0))),
      ]);
      assert.match(endless.handshake.closedBecause, /more than 128 options/);
      assert.match(haggle([clientFlags(0x80)]).handshake.closedBecause, /unknown handshake flags 0x80/);
      const garbage = haggle([clientFlags(), Buffer.alloc(16, 0x41)]);
      assert.match(garbage.handshake.closedBecause, /wrong option magic/);
    });
  });
});
