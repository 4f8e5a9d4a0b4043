/**
 * What the written map says after kill -9, after a loss of power, and when it could not be kept: never a bit
 * too few without a doubt.
 */
import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type MapIdentity, PresentMap } from '../../../src/store/maps/present-map.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCKS = 100_001;
const identity: MapIdentity = {
  uuid: '8f14e45f-ceea-467f-a1d2-9d3c5b6a7e80',
  sizeBytes: (BLOCKS - 1) * 4096 + 100,
  image: '/a.img',
  inode: 1,
  origin: 'nbd://a/a',
};
const image = { path: tmpdir(), sync: (done: { complete(errno: number): void }) => done.complete(0) };

describe('written map', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  const open: PresentMap[] = [];
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(async () => {
    for (const map of open.splice(0)) await map.close().catch(() => undefined);
    await directory.remove();
  });

  const create = async (): Promise<PresentMap> => {
    const map = await PresentMap.create(directory.path, identity, image);
    open.push(map);
    return map;
  };
  /** As the next process does, the last one having died: it is not closed. */
  const reopen = async (as: MapIdentity = identity): Promise<PresentMap> => {
    const map = await PresentMap.open(directory.path, as, image);
    open.push(map);
    return map;
  };
  const flush = (map: PresentMap): Promise<number> =>
    new Promise((resolve) => map.flush({ complete: resolve }));
  /** Only what is durable: files of another boot do not count. */
  const losePower = async (): Promise<void> => {
    for (const name of ['present.live', 'written.live']) {
      const path = join(directory.path, name);
      const bytes = await readFile(path);
      const fields = JSON.parse(bytes.toString('utf8', 0, bytes.indexOf('\n'))) as { cache: object };
      bytes.fill(0, 0, 4096);
      bytes.write(`${JSON.stringify({ ...fields, cache: { ...fields.cache, boot: 'another' } })}\n`);
      await writeFile(path, bytes);
    }
  };
  const written = ({ written: map }: PresentMap): number[] => {
    const found: number[] = [];
    for (let at = map.nextWritten(0, BLOCKS); at < BLOCKS; at = map.nextWritten(at + 1, BLOCKS))
      found.push(at);
    return found;
  };
  const inDoubt = ({ written: map }: PresentMap, blocks: number[]) =>
    blocks.filter((block) => map.isInDoubt(block));

  it('after kill -9 knows every mark, and doubts nothing', async () => {
    const map = await create();
    map.mark(0, BLOCKS);
    map.written.mark(7, 3);
    map.written.mark(BLOCKS - 1, 1);
    let again = await reopen();
    assert.deepEqual(written(again), [7, 8, 9, BLOCKS - 1]);
    again.written.mark(8, 4);
    again = await reopen();
    assert.deepEqual(written(again), [7, 8, 9, 10, 11, BLOCKS - 1]);
    assert.deepEqual(inDoubt(again, [0, 6, 12]), []);
    assert.equal(again.written.nextUnwritten(7, BLOCKS), 12);
  });

  it('after a loss of power knows what was saved, and doubts the rest of what was present then', async () => {
    const map = await create();
    map.mark(0, 20);
    map.written.mark(3, 1);
    await map.written.save();
    map.written.mark(4, 1);
    await flush(map);
    map.mark(30, 1);
    await losePower();
    let again = await reopen();
    assert.deepEqual(written(again), [3]);
    assert.deepEqual(inDoubt(again, [4, 5, 19, 20, 30]), [4, 5, 19]);
    again.mark(30, 1);
    again.written.mark(5, 1);
    again = await reopen();
    assert.deepEqual(written(again), [3, 5], 'the same boot: exact again');
    assert.deepEqual(inDoubt(again, [4, 30]), [4], 'what came since the loss is not in doubt');
    await flush(again);
    await losePower();
    assert.deepEqual(inDoubt(await reopen(), [4, 30]), [4, 30], 'a second loss');
  });

  it('saves by itself when it is closed', async () => {
    const map = await create();
    map.mark(0, 20);
    map.written.mark(3, 1);
    await flush(map);
    await open.pop()!.close();
    await losePower();
    assert.deepEqual(written(await reopen()), [3]);
  });

  it('of a relocation that an older version began, or whose file is lost, doubts all that is present', async () => {
    for (const lost of [['written.live', 'written.map'], ['written.live']]) {
      const map = await create();
      map.mark(0, 20);
      map.written.mark(3, 1);
      await map.written.save();
      for (const name of lost) await rm(join(directory.path, name));
      const again = await reopen();
      assert.deepEqual(written(again), lost.length === 2 ? [] : [3]);
      assert.deepEqual(inDoubt(again, [2, 19, 20]), [2, 19]);
      await PresentMap.remove(directory.path);
      assert.deepEqual(await readdir(directory.path), []);
    }
  });

  it('begins empty, whatever an earlier disk left', async () => {
    const map = await create();
    map.mark(0, 20);
    map.written.mark(3, 1);
    await losePower();
    await reopen();
    await create();
    const again = await reopen();
    assert.deepEqual(written(again), []);
    again.mark(0, 20);
    assert.deepEqual(inDoubt(await reopen(), [0, 3]), []);
  });

  it("refuses another disk's", async () => {
    await create();
    const mine = await readFile(join(directory.path, 'written.live'));
    await PresentMap.create(directory.path, { ...identity, inode: 2 }, image).then((map) => open.push(map));
    await writeFile(join(directory.path, 'written.live'), mine);
    await assert.rejects(
      reopen({ ...identity, inode: 2 }),
      /written\.live is the map of another disk: its inode is 1/,
    );
  });

  it('that cannot be written hinders nobody, and after a restart everything is in doubt', async function () {
    const map = await create();
    map.mark(0, 20);
    // A full disk, as far as the live file is concerned.
    const broken = await breakFile(join(directory.path, 'written.live'));
    if (!broken) {
      console.log('skipped: /proc/self/fd does not show the live file');
      this.skip();
    }
    map.written.mark(3, 1);
    assert.deepEqual(written(map), [3], 'known as long as the process lives');
    const again = await reopen();
    assert.deepEqual(inDoubt(again, [2, 3, 19, 20]), [2, 3, 19]);
  });
});

/**
 * Lets every write to a file that this process has open fail for want of room. @returns false where it is not
 * found open.
 */
async function breakFile(path: string): Promise<boolean> {
  const { default: koffi } = await import('koffi');
  const dup2 = koffi.load(null).func('int dup2(int from, int to)') as (from: number, to: number) => number;
  const found = readdirSync('/proc/self/fd').find((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === path;
    } catch {
      return false;
    }
  });
  if (found === undefined) return false;
  const full = openSync('/dev/full', 'w');
  dup2(full, Number(found));
  closeSync(full);
  return true;
}
