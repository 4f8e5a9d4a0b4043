import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, read } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Completion } from '../../../src/store/completion.ts';
import { ColdReads } from '../../../src/store/image/cold-reads.ts';

describe('cold reads', () => {
  const content = randomBytes(256 * 1024);
  let directory: string;
  let fd: number;
  let pooled: number[];
  let reads: ColdReads;

  const inPool = (into: Buffer, from: number, position: number, done: Completion) => {
    pooled.push(position);
    read(fd, into, from, into.length - from, position + from, (error, count) => {
      done.complete(error === null && from + count === into.length ? 0 : 5);
    });
  };

  const readAt = async (position: number, length: number, from = 0): Promise<void> => {
    const into = Buffer.alloc(length);
    content.copy(into, 0, position, position + from);
    const errno = await new Promise<number>((resolve) =>
      reads.read(into, from, position, { complete: resolve }),
    );
    assert.equal(errno, 0);
    assert.deepEqual(into, content.subarray(position, position + length));
  };

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'xnbd-cold-'));
    await writeFile(join(directory, 'image'), content);
    fd = openSync(join(directory, 'image'), 'r');
    pooled = [];
    reads = new ColdReads(fd, inPool);
  });

  afterEach(async () => {
    closeSync(fd);
    await rm(directory, { recursive: true });
  });

  it('the first goes to the pool: nothing is known of the disk yet', async () => {
    await readAt(4096, 4096);
    assert.deepEqual(pooled, [4096]);
  });

  it('long ones always go to the pool', async () => {
    for (let times = 0; times < 3; times++) await readAt(0, 128 * 1024);
    assert.equal(pooled.length, 3);
  });

  it('a batch is answered in full and right, wherever each was read, a part that was there kept', async () => {
    for (let times = 0; times < 5; times++) {
      await Promise.all(
        Array.from({ length: 60 }, (_, block) => readAt(block * 4096, 4096, block % 2 === 0 ? 0 : 1000)),
      );
    }
    assert.ok(pooled.length >= 60, 'the first batch at least');
  });

  it('what ends before it is full is for the pool to report', async () => {
    await readAt(0, 4096);
    const errno = await new Promise<number>((resolve) =>
      reads.read(Buffer.alloc(8192), 0, content.length - 4096, { complete: resolve }),
    );
    assert.equal(errno, 5);
    assert.ok(pooled.includes(content.length - 4096));
  });
});
