/** The attach option, of our version and of the one before. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ByteDriver } from '../../../src/nbd/byte-coroutine.ts';
import { HandshakeFlag, Option, OptionReply } from '../../../src/nbd/constants.ts';
import {
  type AttachRequest,
  decodeAttached,
  decodeAttachRequest,
  encodeAttached,
  encodeAttachRequest,
} from '../../../src/nbd/handshake/attach.ts';
import { clientHandshake, LeaseVoid } from '../../../src/nbd/handshake/client-handshake.ts';
import { encodeGreeting, encodeOptionReply } from '../../../src/nbd/handshake/option-framing.ts';

const lease = '11111111-2222-4333-8444-555555555555';
const uuid = '21111111-2222-4333-8444-555555555555';
const request: AttachRequest = {
  lease,
  uuid,
  generation: 7,
  name: 'disk',
  epoch: 3,
  holder: 'b.example:10809',
};

describe('attach option', () => {
  it('carries epoch and holder, and in version 1 does without', () => {
    assert.deepEqual(decodeAttachRequest(encodeAttachRequest(request)), { ...request, version: 2 });
    const { epoch, holder, ...before } = request;
    assert.ok(epoch === 3 && holder !== undefined);
    const old = encodeAttachRequest({ ...request, version: 1 });
    assert.equal(old.length, 48 + 4);
    assert.deepEqual(decodeAttachRequest(old), { ...before, version: 1 });
    const attached = { uuid, generation: 7, fenced: true, size: 4096, epoch: 3 };
    assert.deepEqual(decodeAttached(encodeAttached(attached)), attached);
    assert.deepEqual(decodeAttached(encodeAttached(attached, 1)), {
      uuid,
      generation: 7,
      fenced: true,
      size: 4096,
    });
  });

  it('refuses lengths that lie, and a holder that is no address', () => {
    const whole = encodeAttachRequest(request);
    for (let length = 0; length < whole.length; length++)
      assert.throws(() => decodeAttachRequest(whole.subarray(0, length)));
    assert.throws(() => decodeAttachRequest(Buffer.concat([whole, Buffer.alloc(1)])));
    for (const holder of ['b example', 'b;rm', 'b\n', 'x'.repeat(256), 'b/../c'])
      assert.throws(() => decodeAttachRequest(encodeAttachRequest({ ...request, holder })), /holder/);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        const data = Buffer.from(bytes);
        if (data.length >= 4) data.writeUInt32BE(2);
        try {
          decodeAttachRequest(data);
        } catch (error) {
          assert.match((error as Error).message, /^attach /);
        }
      }),
    );
  });

  /**
   * The client with a server that has EXTENDED_HEADERS and then answers each attach in turn. @returns the
   * versions asked with
   */
  function asks(...answers: Buffer[]): { versions: number[]; driver: ByteDriver<unknown> } {
    const versions: number[] = [];
    const toClient: Buffer[] = [encodeGreeting()];
    const driver = new ByteDriver(
      clientHandshake({ exportName: 'disk', attach: request }, (bytes) => {
        if (bytes.length < 16) return;
        const option = bytes.readUInt32BE(8);
        if (option === Option.XNBD_ATTACH) {
          versions.push(bytes.readUInt32BE(16));
          toClient.push(answers.shift()!);
        } else if (option === Option.EXTENDED_HEADERS) {
          toClient.push(encodeOptionReply(option, OptionReply.ACK));
        }
      }),
    );
    for (let reply = toClient.shift(); reply !== undefined; reply = toClient.shift()) driver.feed(reply);
    return { versions, driver };
  }

  it('asks a server of an earlier release as that understands it', () => {
    assert.ok(HandshakeFlag.FIXED_NEWSTYLE);
    const invalid = encodeOptionReply(
      Option.XNBD_ATTACH,
      OptionReply.ERR_INVALID,
      'attach version 2 is not 1',
    );
    const attached = encodeAttached({ uuid, generation: 7, fenced: false, size: 4096 }, 1);
    const yes = Buffer.concat([
      encodeOptionReply(Option.XNBD_ATTACH, OptionReply.XNBD_ATTACHED, attached),
      encodeOptionReply(Option.XNBD_ATTACH, OptionReply.ACK),
    ]);
    assert.deepEqual(asks(invalid, yes).versions, [2, 1]);
    assert.deepEqual(asks(yes).versions, [2]);
  });

  it('knows a lease that is void for good', () => {
    const no = encodeOptionReply(Option.XNBD_ATTACH, OptionReply.XNBD_ERR_VOID, 'was reclaimed');
    assert.throws(
      () => asks(no),
      (error) => error instanceof LeaseVoid && /was reclaimed/.test(error.message),
    );
  });
});
