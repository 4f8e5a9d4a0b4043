import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import { Command, NBD_MAX_PAYLOAD } from '../../../src/nbd/constants.ts';
import { ReceiveBuffer } from '../../../src/nbd/receive-buffer.ts';
import { RequestParser } from '../../../src/nbd/transmission/request-parser.ts';
import { encodeRawRequest, type RawRequest } from '../../lab/nbd/raw-client.ts';

const request = fc.record({
  type: fc.constantFrom(Command.READ, Command.WRITE, Command.FLUSH, 0xabcd),
  flags: fc.nat(0xffff),
  offset: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
  cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  payload: fc.uint8Array({ maxLength: 300 }),
});

function parsedNow(parser: RequestParser): RawRequest {
  const { type, flags, offset, length } = parser;
  const cookie = (BigInt(parser.cookieHigh) << 32n) | BigInt(parser.cookieLow);
  // What is in the receive buffer is valid only now.
  return { type, flags, offset, length, cookie, payload: Buffer.from(parser.payload) };
}

describe('request parser', () => {
  it('finds the same requests however the bytes are cut, and however late they are parsed', () => {
    fc.assert(
      fc.property(
        fc.array(request, { maxLength: 20 }),
        fc.integer({ min: 32, max: 500 }),
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }),
        fc.array(fc.nat(4), { minLength: 1 }),
        (requests, capacity, cuts, turns) => {
          const sent = requests.map(({ payload, ...rest }): RawRequest => {
            const isWrite = rest.type === Command.WRITE;
            return { ...rest, length: payload.length, payload: Buffer.from(isWrite ? payload : []) };
          });
          let bytes = Buffer.concat(sent.map(encodeRawRequest));
          const input = new ReceiveBuffer(capacity);
          const parser = new RequestParser();
          const found: RawRequest[] = [];
          for (let round = 0; bytes.length > 0; round++) {
            const space = input.space();
            // As after a pause: the socket has its space already, and parsing goes on before it is filled.
            for (let turn = turns[round % turns.length]!; turn > 0 && parser.next(input); turn--)
              found.push(parsedNow(parser));
            const count = Math.min(cuts[round % cuts.length]!, space.length, bytes.length);
            bytes.copy(space, 0, 0, count);
            bytes = bytes.subarray(count);
            input.filled(count);
            for (let turn = turns[round % turns.length]!; turn > 0 && parser.next(input); turn--)
              found.push(parsedNow(parser));
          }
          while (parser.next(input)) found.push(parsedNow(parser));
          assert.deepEqual(found, sent);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('takes one request split at every byte', () => {
    const sent = { type: Command.WRITE, flags: 1, offset: 2 ** 41 + 5, cookie: 2n ** 63n + 9n, length: 5 };
    const bytes = encodeRawRequest({ ...sent, payload: Buffer.from('hello') });
    for (let at = 0; at < bytes.length; at++) {
      const input = new ReceiveBuffer(64);
      const parser = new RequestParser();
      for (const piece of [bytes.subarray(0, at), bytes.subarray(at)]) {
        assert.equal(parser.next(input), false);
        piece.copy(input.space());
        input.filled(piece.length);
      }
      assert.equal(parser.next(input), true);
      assert.deepEqual(parsedNow(parser), { ...sent, payload: Buffer.from('hello') });
    }
  });

  it('holds a payload of the maximum, then goes back to its small buffer', () => {
    const input = new ReceiveBuffer(1024);
    const parser = new RequestParser();
    const payload = Buffer.alloc(NBD_MAX_PAYLOAD, 'xnbd');
    let bytes = encodeRawRequest({ type: Command.WRITE, length: payload.length, payload });
    while (!parser.next(input)) {
      const count = bytes.copy(input.space());
      input.filled(count);
      bytes = bytes.subarray(count);
    }
    assert.ok(parser.payload.equals(payload));
    assert.equal(input.space().length, 1024);
  });

  it('refuses a wrong magic, and a WRITE larger than the maximum before its data come', () => {
    const tooLarge = encodeRawRequest({ type: Command.WRITE, length: NBD_MAX_PAYLOAD + 1 });
    const wrong = encodeRawRequest({ type: Command.READ });
    wrong.writeUInt32BE(0x12345678, 0);
    for (const [bytes, text] of [
      [tooLarge, /WRITE of 33554433 bytes is larger than the maximum/],
      [wrong, /request magic is 0x12345678/],
    ] as const) {
      const input = new ReceiveBuffer(64);
      bytes.copy(input.space());
      input.filled(bytes.length);
      assert.throws(() => new RequestParser().next(input), text);
    }
  });
});
