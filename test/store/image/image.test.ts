import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import sinon from 'sinon';
import { AllocationFlag, Errno } from '../../../src/nbd/constants.ts';
import type { Completion } from '../../../src/store/completion.ts';
import { Image } from '../../../src/store/image/image.ts';
import { lockState } from '../../../src/store/records/state-lock.ts';

const SIZE = 256 * 1024;

/** Runs one call with a completion. @returns its errno */
function completed(call: (done: Completion) => void): Promise<number> {
  return new Promise((resolve) => call({ complete: resolve }));
}

async function readAll(image: Image, position = 0, length = image.size): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee);
  assert.equal(await completed((done) => image.read(into, position, done)), 0);
  return into;
}

describe('image', () => {
  let directory: string;
  let path: string;
  let image: Image;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'xnbd-image-'));
    path = join(directory, 'd.img');
    image = await Image.create(path, SIZE);
  });

  afterEach(async () => {
    sinon.restore();
    await image.close();
    rmSync(directory, { recursive: true });
  });

  it('is made sparse, and only where there is no file', async () => {
    assert.equal(statSync(path).size, SIZE);
    assert.equal(statSync(path).blocks, 0);
    await assert.rejects(
      Image.create(path, SIZE),
      new RegExp(`cannot create image ${path} .* exists already`),
    );
  });

  it('says in one line what it cannot open', async () => {
    await assert.rejects(Image.open(join(directory, 'none')), /cannot open image .*none: no such file$/);
    await assert.rejects(Image.open(directory), /directory/);
    await assert.rejects(
      Image.open('/dev/null'),
      /image \/dev\/null: it is neither a raw file nor a block device/,
    );
    execFileSync('mkfifo', [join(directory, 'fifo')]);
    await assert.rejects(Image.open(join(directory, 'fifo'), { readOnly: true }), /neither a raw file/);
    await assert.rejects(
      Image.create(join(directory, 'no', 'where'), 1),
      /cannot create image .*no such file/,
    );
  });

  it('does to its file what a model does to memory', () => actsAsModel());

  it('and does the same through the thread pool', async () => {
    // A clock by which every call takes long: no second one is made on the loop.
    let now = 0;
    sinon.stub(performance, 'now').callsFake(() => (now += 5));
    await actsAsModel();
  });

  async function actsAsModel(): Promise<void> {
    const span = fc
      .tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 70_000 }))
      .map(([at, length]) => ({ at, length: Math.min(length, SIZE - at) }));
    const step = fc.record({
      op: fc.constantFrom('write', 'punch', 'zeros', 'read', 'extents'),
      span,
      fill: fc.integer({ min: 1, max: 255 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const model = await readAll(image);
        for (const { op, span, fill } of steps) {
          const { at, length } = span;
          const part = model.subarray(at, at + length);
          if (op === 'write') {
            part.fill(fill);
            const data = Buffer.from(part);
            const written = completed((done) => image.write(data, at, done));
            // It is the caller's again.
            data.fill(0);
            assert.equal(await written, 0);
          } else if (op === 'punch') {
            part.fill(0);
            assert.equal(await completed((done) => image.punch(at, length, done)), 0);
          } else if (op === 'zeros') {
            part.fill(0);
            assert.equal(await completed((done) => image.allocateZeros(at, length, done)), 0);
          } else if (op === 'read') assert.ok((await readAll(image, at, length)).equals(part));
          else checkExtents(image, model, at, length);
        }
        assert.ok((await readAll(image)).equals(model));
      }),
      { numRuns: 60 },
    );
    assert.equal(await completed((done) => image.sync(done)), 0);
    assert.ok(readFileSync(path).equals(await readAll(image)));
  }

  it('reads what is not in the page cache', async function () {
    const data = randomBytes(SIZE);
    await completed((done) => image.write(data, 0, done));
    await completed((done) => image.sync(done));
    try {
      execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], {
        stdio: 'pipe',
      });
    } catch {
      console.log('      skipped: dd cannot empty the page cache of a file');
      this.skip();
    }
    const parts = [3, 0, 2, 1].map(async (part) => {
      const at = (part * SIZE) / 4;
      assert.ok((await readAll(image, at, SIZE / 4)).equals(data.subarray(at, at + SIZE / 4)));
    });
    await Promise.all(parts);
  });

  it('gives space back with punch, and keeps it with zeros', async () => {
    const data = Buffer.alloc(SIZE, 1);
    await completed((done) => image.write(data, 0, done));
    await completed((done) => image.sync(done));
    const full = statSync(path).blocks;
    await completed((done) => image.allocateZeros(0, SIZE / 2, done));
    await completed((done) => image.sync(done));
    assert.ok(statSync(path).blocks >= full, 'zeros keep their space');
    await completed((done) => image.punch(0, SIZE, done));
    await completed((done) => image.sync(done));
    assert.ok(statSync(path).blocks < full / 4, 'punched space is free');
    assert.ok((await readAll(image)).equals(Buffer.alloc(SIZE)));
  });

  it('clears any range of a block device, whole blocks of its own or not', async function () {
    let device: string;
    try {
      device = execFileSync('losetup', ['--find', '--show', path], {
        encoding: 'utf8',
        stdio: 'pipe',
      }).trim();
    } catch (error) {
      console.log(`      skipped: no loop device: ${(error as Error).message.trim()}`);
      this.skip();
    }
    const disk = await Image.open(device);
    try {
      const content = randomBytes(SIZE);
      assert.equal(await completed((done) => disk.write(content, 0, done)), 0);
      assert.equal(await completed((done) => disk.punch(1000, 5000, done)), 0);
      assert.equal(await completed((done) => disk.allocateZeros(20_001, 512, done)), 0);
      content.fill(0, 1000, 6000).fill(0, 20_001, 20_513);
      assert.ok((await readAll(disk)).equals(content));
    } finally {
      await disk.close();
      execFileSync('losetup', ['--detach', device]);
    }
  });

  it('finds data between holes, one extent when one is wanted', async () => {
    await completed((done) => image.write(Buffer.alloc(8192, 1), 64 * 1024, done));
    const hole = AllocationFlag.HOLE | AllocationFlag.ZERO;
    assert.deepEqual(image.extents(0, SIZE, false), [
      { length: 64 * 1024, flags: hole },
      { length: 8192, flags: 0 },
      { length: SIZE - 72 * 1024, flags: hole },
    ]);
    assert.deepEqual(image.extents(64 * 1024 + 100, 1000, false), [{ length: 1000, flags: 0 }]);
    assert.deepEqual(image.extents(1000, SIZE - 1000, true), [{ length: 63 * 1024 + 24, flags: hole }]);
  });

  it('reports the end of a file that has been cut: never zeros', async () => {
    truncateSync(path, 5000);
    assert.equal(await completed((done) => image.read(Buffer.alloc(4096), 4096, done)), Errno.EIO);
    assert.equal(await completed((done) => image.read(Buffer.alloc(4096), 8192, done)), Errno.EIO);
    assert.equal(await completed((done) => image.read(Buffer.alloc(4096), 0, done)), 0);
  });

  it('a read-only one refuses nothing of its file but writes', async () => {
    writeFileSync(path, Buffer.alloc(4096, 3));
    await image.close();
    const readOnly = await Image.open(path, { readOnly: true });
    assert.equal(readOnly.size, 4096);
    assert.ok((await readAll(readOnly)).equals(Buffer.alloc(4096, 3)));
    assert.equal(await completed((done) => readOnly.write(Buffer.alloc(1), 0, done)), Errno.EIO);
    await readOnly.close();
  });

  it('passes a full disk on as ENOSPC', async function () {
    const mount = join(directory, 'full');
    try {
      execFileSync('mkdir', [mount]);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mount], { stdio: 'pipe' });
    } catch {
      console.log('      skipped: a small tmpfs cannot be mounted here');
      this.skip();
    }
    try {
      const full = await Image.create(join(mount, 'd.img'), SIZE);
      assert.equal(await completed((done) => full.write(Buffer.alloc(SIZE, 1), 0, done)), Errno.ENOSPC);
      assert.equal(await completed((done) => full.allocateZeros(0, SIZE, done)), Errno.ENOSPC);
      await full.close();
    } finally {
      execFileSync('umount', [mount]);
    }
  });

  it('syncs for all who ask, whatever is under way', async () => {
    const answers: number[] = [];
    const all = Array.from({ length: 20 }, async () =>
      answers.push(await completed((done) => image.sync(done))),
    );
    await Promise.all(all);
    assert.deepEqual(
      answers,
      Array.from({ length: 20 }, () => 0),
    );
  });

  it('its state belongs to one process', async () => {
    const first = await lockState(join(directory, 'state'));
    await assert.rejects(
      lockState(join(directory, 'state')),
      /state directory .*state is in use by another xnbd-export/,
    );
    await first.release();
    await (await lockState(join(directory, 'state'))).release();
  });
});

function checkExtents(image: Image, model: Buffer, at: number, length: number): void {
  let position = at;
  for (const { length: bytes, flags } of image.extents(at, length, false)) {
    assert.ok(bytes > 0);
    if (flags !== 0) assert.ok(model.subarray(position, position + bytes).every((byte) => byte === 0));
    position += bytes;
  }
  assert.equal(position, at + length);
}
