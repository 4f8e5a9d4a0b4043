/**
 * The last word to an origin is said until it is heard: only an origin that cannot hear it any more ends
 * that.
 */
import assert from 'node:assert/strict';
import { OptionReply } from '../../../src/nbd/constants.ts';
import { HandshakeError, OriginRetired } from '../../../src/nbd/handshake/client-handshake.ts';
import { Refusals } from '../../../src/relocation/lease/retire-origin.ts';

const MINUTE = 60_000;
const refusal = (answer: number) => new HandshakeError('no', true, answer);

describe('letting go of an origin that refuses us', () => {
  it('goes on for ever while its export does not run, or TLS fails', () => {
    for (const answer of [OptionReply.ERR_SHUTDOWN, OptionReply.ERR_PLATFORM, 0]) {
      const refusals = new Refusals();
      for (let now = 0; now < 10_000 * MINUTE; now += MINUTE)
        assert.equal(refusals.isFinal(refusal(answer), now), false);
    }
  });

  it('ends at once with an origin that has retired', () => {
    assert.ok(new Refusals().isFinal(new OriginRetired('it is history', true), 0));
  });

  it('ends after ten minutes in which its host has no such disk', () => {
    const refusals = new Refusals();
    for (let now = 0; now < 10 * MINUTE; now += MINUTE)
      assert.equal(refusals.isFinal(refusal(OptionReply.ERR_UNKNOWN), now), false);
    assert.ok(refusals.isFinal(refusal(OptionReply.ERR_UNKNOWN), 10 * MINUTE));
  });

  it('begins to count anew when another answer came in between', () => {
    const refusals = new Refusals();
    assert.equal(refusals.isFinal(refusal(OptionReply.ERR_UNKNOWN), 0), false);
    assert.equal(refusals.isFinal(refusal(OptionReply.ERR_SHUTDOWN), 9 * MINUTE), false);
    assert.equal(refusals.isFinal(refusal(OptionReply.ERR_UNKNOWN), 11 * MINUTE), false);
  });
});
