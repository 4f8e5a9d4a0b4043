import assert from 'node:assert/strict';
import { Option, OptionReply } from '../../../src/nbd/constants.ts';
import { decodeFeatures, encodeFeatures, FEATURES, Feature } from '../../../src/nbd/handshake/features.ts';

describe('features of two xNBD ends', () => {
  it('are a set of bits, of which those that we do not know are left out', () => {
    assert.equal(decodeFeatures(encodeFeatures(0xffffffff)), FEATURES);
    assert.equal(decodeFeatures(encodeFeatures(0)), 0);
    assert.notEqual(FEATURES & Feature.BACKGROUND, 0);
  });

  it('have four bytes', () => {
    assert.throws(() => decodeFeatures(Buffer.alloc(3)), /3 bytes/);
    assert.throws(() => decodeFeatures(Buffer.alloc(8)), /8 bytes/);
  });

  it('have numbers of their own', () => {
    const numbers = [...Object.values(Option), ...Object.values(OptionReply)];
    assert.equal(numbers.filter((number) => number === Option.XNBD_FEATURES).length, 2);
  });
});
