/** A block device is known by what it is, not by the path that it has today. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { bytesOf } from '../lab/model/content.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { useExports } from '../lab/nbd/use-exports.ts';

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;
const losetup = (...args: string[]) =>
  execFileSync('losetup', args, { encoding: 'utf8', stdio: 'pipe' }).trim();

describe('a block device that a disk arrives on', function () {
  this.timeout(90_000);
  const { path, start, line } = useExports();
  let loops: string[] = [];

  afterEach(() => {
    for (const loop of loops) losetup('-d', loop);
    loops = [];
  });

  it('is found under another name, and another device under its name is not taken for it', async function () {
    for (const name of ['disk', 'other']) {
      await writeFile(path(name), '');
      await truncate(path(name), SIZE);
    }
    let first: string;
    try {
      first = losetup('-f', '--show', path('disk'));
    } catch (error) {
      console.log(`skipped: no loop device: ${(error as Error).message.split('\n')[0]}`);
      this.skip();
    }
    const content = bytesOf(7, SIZE);
    await writeFile(path('a.img'), content);
    await start('target', 'a');
    const wan = await line('a', { rttMs: 1, rateMbit: 40 });
    const args = ['--origin', `nbd://${wan.address}/disk`, '--state', path('state')];
    const on = (device: string) => start('proxy', 'b', args, `../../..${device}`);
    const before = await start('proxy', 'b', [...args, '--takeover', 'now'], `../../..${first}`);
    await before.until(({ presentBytes }) => presentBytes > 4 * MIB);
    await before.end();
    losetup('-d', first);

    const taken = losetup('-f', '--show', path('other'));
    const moved = losetup('-f', '--show', path('disk'));
    loops = [taken, moved];
    await assert.rejects(
      on(taken),
      /present\.map is the map of another disk: its image is "device file .*disk", here it is "device file .*other"/,
    );
    const after = await on(moved);
    assert.ok((await after.status()).presentBytes >= 4 * MIB);
    assert.equal((await after.status()).image, moved);
    await after.until(({ state, origin }) => state === 'serving' && origin === null, 60_000);
    await after.end();
    execFileSync('blockdev', ['--flushbufs', moved]);
    assertSameBytes(await readFile(path('disk')), content);
  });
});
