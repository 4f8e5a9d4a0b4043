import assert from 'node:assert/strict';
import { closeSync, openSync, writeSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { DiskModel, SECTOR } from '../../demo/model.ts';

const SIZE = 3 * 1024 * 1024 + 4096;

describe('model of the guest’s disk', () => {
  let dir: string;
  let original: number;
  let image: number;

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'model-'));
    const content = Buffer.alloc(SIZE, 'what was there before');
    content.fill(0, 8192, 16384);
    original = openSync(join(dir, 'original'), 'w+');
    image = openSync(join(dir, 'image'), 'w+');
    for (const file of [original, image]) writeSync(file, content, 0, SIZE, 0);
  });
  afterEach(async () => {
    closeSync(original);
    closeSync(image);
    await rm(dir, { recursive: true });
  });

  const sectors = fc
    .tuple(fc.nat(SIZE / SECTOR - 40), fc.integer({ min: 1, max: 40 }))
    .map(([first, count]) => ({ offset: first * SECTOR, length: count * SECTOR }));

  it('agrees with an image that got every write, and names each block that lacks a byte of one', () => {
    const model = new DiskModel(original, SIZE);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(sectors, fc.boolean()), { maxLength: 20 }),
        sectors,
        fc.nat(511),
        (writes, hit, byte) => {
          for (const [{ offset, length }, zero] of writes) {
            if (zero) model.zero(offset, length);
            const data = zero ? Buffer.alloc(length) : model.write(offset, length);
            writeSync(image, data, 0, length, offset);
          }
          assert.deepEqual(model.differences(image), []);
          const at = hit.offset + byte;
          const right = model.expected(hit.offset, SECTOR)[byte]!;
          writeSync(image, Buffer.of(right ^ 1), 0, 1, at);
          assert.deepEqual(model.differences(image), [Math.floor(at / 4096)]);
          writeSync(image, Buffer.of(right), 0, 1, at);
        },
      ),
      { numRuns: 30 },
    );
  });

  it('does not take an older write for the newer, nor a neighbour’s for the right one', () => {
    const model = new DiskModel(original, SIZE);
    const older = model.write(4096, 4096);
    const newer = model.write(4096, 4096);
    const neighbour = model.write(0, 4096);
    assert.ok(!older.equals(newer) && !neighbour.equals(newer));
    const left = model.snapshot();
    model.write(0, 4096);
    assert.ok(left.expected(0, 4096).equals(neighbour));
  });

  it('knows the blocks of zeros, and an image that is too short', () => {
    const model = new DiskModel(original, SIZE);
    assert.deepEqual([...model.zeroBlocks()], [2, 3]);
    const short = openSync(join(dir, 'short'), 'w+');
    assert.ok(model.differences(short).length > 0);
    closeSync(short);
  });
});
