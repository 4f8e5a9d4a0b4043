import assert from 'node:assert/strict';
import fc from 'fast-check';
import { formatBytes, formatSeconds, formatShare } from '../../src/log/numbers.ts';

describe('numbers for people', () => {
  it('writes bytes with three digits', () => {
    assert.equal(formatBytes(0), '0 B');
    assert.equal(formatBytes(999), '999 B');
    assert.equal(formatBytes(1000), '1.0 KiB');
    assert.equal(formatBytes(4.25 * 2 ** 30), '4.3 GiB');
    assert.equal(formatBytes(100 * 2 ** 20), '100 MiB');
    assert.equal(formatBytes(2 ** 53), '8.0 PiB');
    fc.assert(
      fc.property(fc.maxSafeNat(), (bytes) => /^\d{1,3}(\.\d)? [KMGTP]?i?B$/.test(formatBytes(bytes))),
    );
  });

  it('writes times', () => {
    assert.equal(formatSeconds(0.4), '0 s');
    assert.equal(formatSeconds(59.6), '1:00 min');
    assert.equal(formatSeconds(245), '4:05 min');
    assert.equal(formatSeconds(7800), '2:10:00 h');
  });

  it('says 100 % of nothing less than the whole', () => {
    assert.equal(formatShare(0, 1000), '0.0 %');
    assert.equal(formatShare(2 ** 40 - 1, 2 ** 40), '99.9 %');
    assert.equal(formatShare(2 ** 40, 2 ** 40), '100 %');
    assert.equal(formatShare(0, 0), '100 %');
  });
});
