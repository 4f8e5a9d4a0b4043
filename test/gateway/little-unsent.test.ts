/** What a visitor's connection may hold that the kernel has not sent. */
import assert from 'node:assert/strict';
import { keepLittleUnsent } from '../../src/gateway/little-unsent.ts';
import { waitFor } from '../lab/wait-for.ts';

const KIB = 1024;

describe('what is unsent at the gateway', () => {
  let limits: number[];
  let stream: { bytesWritten: number };
  let end: () => void;

  beforeEach(() => {
    limits = [];
    stream = { bytesWritten: 0 };
    end = keepLittleUnsent(stream, { limitUnsent: (bytes) => limits.push(bytes) });
  });

  afterEach(() => end());

  it('is little at first, and while little is carried', async () => {
    assert.deepEqual(limits, [32 * KIB]);
    stream.bytesWritten += 10 * KIB;
    await new Promise((resolve) => setTimeout(resolve, 600));
    assert.deepEqual(limits, [32 * KIB]);
  });

  it('is more on a line that carries more, and bounded', async () => {
    const carrying = setInterval(() => (stream.bytesWritten += 10 * KIB * KIB), 10);
    try {
      await waitFor('a larger limit', () => limits.at(-1)! > 256 * KIB);
      assert.ok(limits.at(-1)! <= 4 * KIB * KIB);
    } finally {
      clearInterval(carrying);
    }
    await waitFor('it to shrink again', () => limits.at(-1)! < limits.at(-2)!);
  });
});
