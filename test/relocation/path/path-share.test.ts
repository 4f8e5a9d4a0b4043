import assert from 'node:assert/strict';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { configureLog } from '../../../src/log/log.ts';
import { PathShare } from '../../../src/relocation/path/path-share.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

describe('disks on one path', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let now: number;
  const shares: PathShare[] = [];

  beforeEach(async () => {
    directory = await temporaryDirectory();
    now = 1000;
  });

  afterEach(async () => {
    for (const share of shares.splice(0)) share.close();
    await directory.remove();
  });

  function onPath(name: string, path = 'a.example:10809'): PathShare {
    const share = new PathShare(directory.path, path, name, () => now);
    shares.push(share);
    return share;
  }

  const state = (base: number, window: number, weight = 1) => ({ base, window, weight });

  it('hear of each other, and of nobody elsewhere', () => {
    const [one, two, three] = [onPath('1'), onPath('2'), onPath('3')];
    const elsewhere = onPath('4', 'b.example:10809');
    assert.deepEqual(one.exchange(state(50, 1000)), { base: Number.POSITIVE_INFINITY, window: 0, weight: 0 });
    assert.deepEqual(two.exchange(state(48, 500, 3)), { base: 50, window: 1000, weight: 1 });
    assert.deepEqual(three.exchange(state(60, 1)), { base: 48, window: 1500, weight: 4 });
    assert.equal(elsewhere.exchange(state(1, 1)).weight, 0);
    assert.deepEqual(one.exchange(state(50, 1000)), { base: 48, window: 501, weight: 4 });
  });

  it('know the path by one that has enough, and share with it nothing', () => {
    const [one, two] = [onPath('1'), onPath('2')];
    one.exchange(state(20, 7000, 0));
    assert.deepEqual(two.exchange(state(30, 1)), { base: 20, window: 0, weight: 0 });
  });

  it('forget one that leaves at once, and one that dies after a while', () => {
    const [one, two, three] = [onPath('1'), onPath('2'), onPath('3')];
    one.exchange(state(50, 1000));
    two.exchange(state(50, 1000));
    one.close();
    assert.equal(three.exchange(state(50, 1)).weight, 1);
    now += 4000;
    assert.equal(three.exchange(state(50, 1)).weight, 1);
    now += 4000;
    assert.equal(three.exchange(state(50, 1)).weight, 0);
    const [hash] = readdirSync(join(directory.path, 'paths'));
    assert.ok(!existsSync(join(directory.path, 'paths', hash!, '2')), 'what a dead one left is removed');
  });

  it('take no notice of what is no state', () => {
    const one = onPath('1');
    one.exchange(state(50, 1000));
    const [hash] = readdirSync(join(directory.path, 'paths'));
    const infinite = Buffer.alloc(40);
    infinite.writeUInt32LE(1, 0);
    for (const [index, value] of [now, 50, Number.POSITIVE_INFINITY, 1].entries())
      infinite.writeDoubleLE(value, 8 + 8 * index);
    const future = Buffer.from(infinite);
    future.writeUInt32LE(2, 0);
    for (const [name, bytes] of Object.entries({
      2: infinite,
      3: future,
      4: Buffer.alloc(3),
      5: Buffer.alloc(0),
    }))
      writeFileSync(join(directory.path, 'paths', hash!, name), bytes);
    assert.deepEqual(one.exchange(state(50, 1000)), { base: Number.POSITIVE_INFINITY, window: 0, weight: 0 });
  });

  it('are alone where there is no room for a file', () => {
    configureLog({ level: 'error' });
    const share = new PathShare(join(directory.path, 'none\0'), 'a', '1', () => now);
    assert.deepEqual(share.exchange(state(50, 1)), { base: Number.POSITIVE_INFINITY, window: 0, weight: 0 });
    share.close();
    configureLog({ level: 'info' });
  });
});
