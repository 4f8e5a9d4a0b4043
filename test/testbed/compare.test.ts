/** The comparison by which the test bed tells that a disk is right: it has to find what is wrong. */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { wrongBlocks } from '../../testbed/guest/compare.ts';
import { BLOCK_SIZE, blockContent, createPatternImage, diskTag } from '../lab/libvirt/pattern.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const exportName = 'vm1-vda';
const sizeBytes = 2 ** 20;
/** A block that holds data from the beginning, and one that is a hole. */
const [DATA, HOLE] = [5, 64 * 3];

describe('the test bed compares a disk', () => {
  let image: string;
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    image = join(directory.path, 'image');
    await createPatternImage(image, exportName, sizeBytes);
  });
  afterEach(() => directory.remove());

  async function put(block: number, content: Buffer): Promise<void> {
    const file = await open(image, 'r+');
    await file.write(content, 0, content.length, block * BLOCK_SIZE);
    await file.close();
  }

  const write = (block: number, seq: number): Buffer => blockContent(diskTag(exportName), block, seq);
  const wrong = (exactly: [number, number][], atLeast: [number, number][] = []): Promise<string[]> =>
    wrongBlocks(image, { exportName, sizeBytes, exactly: new Map(exactly), atLeast: new Map(atLeast) });

  it('and finds nothing wrong with what was never written, or holds what was told', async () => {
    assert.deepEqual(await wrong([]), []);
    await put(DATA, write(DATA, 7));
    await put(HOLE, write(HOLE, 8));
    assert.deepEqual(await wrong([[DATA, 7]], [[HOLE, 6]]), []);
  });

  it('and finds a write that is lost, old, newer than can be, or another block', async () => {
    assert.match((await wrong([[HOLE, 3]])).join(), /block 192 holds nothing, not write 3/);
    await put(DATA, write(DATA, 7));
    assert.match((await wrong([[DATA, 8]])).join(), /block 5 holds write 7, not write 8/);
    assert.match((await wrong([], [[DATA, 8]])).join(), /block 5 holds write 7, not write 8 or a later one/);
    assert.match((await wrong([[DATA, 6]])).join(), /block 5/);
    await put(DATA, write(DATA + 1, 7));
    assert.match((await wrong([])).join(), /block 5 holds write 7, not whole/);
  });

  it('and finds zeros where there was data, and a block that is torn', async () => {
    await put(DATA, Buffer.alloc(BLOCK_SIZE));
    assert.equal((await wrong([])).length, 1);
    await put(DATA, Buffer.concat([write(DATA, 2).subarray(0, 2048), write(DATA, 3).subarray(2048)]));
    assert.match((await wrong([])).join(), /not whole/);
  });
});
