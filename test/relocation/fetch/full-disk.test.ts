/**
 * No room at the destination: the copy pauses and says so, the guest works on as long as it can, and all goes
 * on when there is room.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Errno } from '../../../src/nbd/constants.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { connectClient, NbdError } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { startWan, type Wan } from '../../lab/net/wan.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCK = 4096;
const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

describe('a destination without room', function () {
  this.timeout(90_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let wan: Wan;
  let proxy: ExportProcess;
  let mounted: string | null = null;
  const started: ExportProcess[] = [];
  const path = (name: string) => join(directory.path, name);

  beforeEach(async function () {
    directory = await temporaryDirectory();
    await mkdir(path('room'));
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', path('room')], { stdio: 'pipe' });
    } catch (error) {
      console.log(`skipped: a small tmpfs cannot be mounted: ${(error as Error).message.split('\n')[0]}`);
      await directory.remove();
      this.skip();
    }
    mounted = path('room');
    content = bytesOf(5, SIZE);
    await writeFile(path('a.img'), content);
    started.push(await startExport('target', 'disk', path('a'), ['--image', path('a.img')]));
    wan = await startWan({ to: path('a'), rttMs: 4, rateMbit: 200 });
    proxy = await startExport('proxy', 'disk', path('b'), [
      ...['--image', path('room/b.img'), '--state', path('b.state')],
      ...['--origin', `nbd://${wan.address}/disk`],
    ]);
    started.push(proxy);
  });

  afterEach(async () => {
    if (mounted === null) return;
    for (const each of started.splice(0).reverse()) await each.end('SIGKILL');
    await wan.stop();
    execFileSync('umount', [mounted]);
    mounted = null;
    await directory.remove();
  });

  const linesWith = (text: string) =>
    proxy
      .log()
      .split('\n')
      .filter((line) => line.includes(text));

  it('pauses the copy with room to spare for the guest, serves every read, and goes on', async () => {
    const guest = await connectClient(proxy.uri);
    const write = async (offset: number, data: Buffer) => {
      await guest.write(offset, data);
      data.copy(content, offset);
    };
    await write(0, bytesOf(6, BLOCK));
    const paused = await proxy.until(({ copyPaused }) => copyPaused !== null);
    assert.match(paused.copyPaused!, /^no room in .*\/room for the \d+ bytes that are still to come$/);
    assert.equal(paused.state, 'relocating');
    // What was under way arrives, and then nothing more: no block is fetched again and again.
    await sleep(500);
    const { presentBytes } = await proxy.status();
    const { downBytes } = await wan.stats();
    await sleep(3000);
    assert.equal((await wan.stats()).downBytes, downBytes, 'the copy pauses');
    // Reads of absent blocks pass through and are not kept; the guest's own writes have the room that is
    // left.
    assertSameBytes(await guest.read(8 * MIB, 8 * MIB), content.subarray(8 * MIB));
    assert.equal((await proxy.status()).presentBytes, presentBytes);
    await write(SIZE - MIB, bytesOf(7, 200_000));
    await write(SIZE - 2 * MIB + 77, Buffer.from('a part of a block'));
    await guest.flush();
    assert.ok((await proxy.status()).presentBytes > presentBytes, 'what the guest writes is kept');
    // When nothing at all is left it is the guest's error, the honest one, and reads go on.
    let errno = 0;
    for (let at = SIZE - 4 * MIB; at < SIZE && errno === 0; at += 64 * 1024) {
      const data = bytesOf(at, 64 * 1024);
      try {
        await write(at, data);
      } catch (error) {
        assert.ok(error instanceof NbdError);
        errno = error.errno;
        content.copy(data, 0, at, at + data.length);
        // A write that failed may have got somewhere, like any.
        (await guest.read(at, data.length)).copy(content, at);
      }
    }
    assert.equal(errno, Errno.ENOSPC);
    assertSameBytes(await guest.read(0, SIZE), content);
    execFileSync('mount', ['-o', 'remount,size=32m', mounted!]);
    const done = await proxy.until((status) => status.state === 'serving' && status.origin === null, 30_000);
    assert.deepEqual([done.error, done.copyPaused, done.badBytes], [null, null, 0]);
    assertSameBytes(await readFile(path('room/b.img')), content);
    assert.equal(linesWith('the copy pauses').length, 1, proxy.log());
    assert.equal(linesWith('the copy goes on').length, 1, proxy.log());
    guest.disconnect();
  });

  it('is none when all that is missing still fits, however little is left then', async () => {
    // What is free in the end is less than the reserve.
    execFileSync('mount', ['-o', `remount,size=${SIZE + 64 * 1024}`, mounted!]);
    await proxy.call('takeover');
    await proxy.until((status) => status.state === 'serving' && status.origin === null, 30_000);
    assertSameBytes(await readFile(path('room/b.img')), content);
    assert.deepEqual(linesWith('the copy pauses'), []);
  });
});
