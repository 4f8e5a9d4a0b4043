import assert from 'node:assert/strict';

/**
 * Two disks are equal; where not, says where first. (assert's own comparison of a few MiB takes gigabytes to
 * show the difference.)
 */
export function assertSameBytes(actual: Buffer, expected: Buffer, what = 'the disk'): void {
  if (actual.equals(expected)) return;
  assert.equal(actual.length, expected.length, `${what} has ${actual.length} bytes, not ${expected.length}`);
  const at = expected.findIndex((byte, index) => actual[index] !== byte);
  const wrong = expected.reduce((count, byte, index) => (actual[index] === byte ? count : count + 1), 0);
  assert.fail(
    `${what} differs in ${wrong} bytes, first at ${at} (block ${Math.floor(at / 4096)}): ` +
      `${actual.toString('hex', at, at + 16)} instead of ${expected.toString('hex', at, at + 16)}`,
  );
}
