/**
 * Bad sectors, at the origin and here: each is the error of its own block, is shown and said once, and the
 * disk does not become complete over it.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Errno } from '../../../src/nbd/constants.ts';
import { installed } from '../../lab/installed.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { type Client, connectClient, NbdError } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { type OriginServer, startNbdkit } from '../../lab/nbd/origin-servers.ts';
import { startWan } from '../../lab/net/wan.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCK = 4096;
const MIB = 1024 * 1024;
const SIZE = 4 * MIB;
const isEio = (error: unknown) => error instanceof NbdError && error.errno === Errno.EIO;

describe('a disk with bad sectors', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let origin: OriginServer | null;
  let proxy: ExportProcess;
  let guest: Client;
  let loop: string | null = null;
  const path = (name: string) => join(directory.path, name);

  beforeEach(async () => {
    directory = await temporaryDirectory();
    origin = null;
    content = bytesOf(8, SIZE);
    await writeFile(path('a.img'), content);
  });

  afterEach(async () => {
    await proxy.end('SIGKILL');
    await origin?.stop();
    if (loop !== null) execFileSync('losetup', ['-d', loop]);
    loop = null;
    await directory.remove();
  });

  async function startProxy(): Promise<void> {
    proxy = await startExport('proxy', 'disk', path('b'), [
      ...['--image', path('b.img'), '--origin', origin!.uri],
    ]);
    guest = await connectClient(proxy.uri);
  }

  const completed = () =>
    proxy.until((status) => status.state === 'serving' && status.origin === null, 40_000);
  const linesWith = (text: string) =>
    proxy
      .log()
      .split('\n')
      .filter((line) => line.includes(text));

  describe('of the origin', () => {
    /** A sector of 512 bytes in the middle of a block. */
    const BAD = 300 * BLOCK + 1024;
    const badBlock = 300 * BLOCK;

    beforeEach(async function () {
      if (!installed('nbdkit')) this.skip();
      await writeFile(path('broken'), '');
      const broken = `[ -e ${path('broken')} ] && [ $4 -lt ${BAD + 512} ] && [ $(($4 + $3)) -gt ${BAD} ]`;
      origin = await startNbdkit(directory.path, [
        'eval',
        'thread_model=echo parallel',
        `get_size=echo ${SIZE}`,
        `pread=if ${broken}; then echo 'EIO a bad sector' >&2; exit 1; fi; dd if=${path('a.img')} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k 2>/dev/null`,
      ]);
      await startProxy();
      await guest.write(0, content.subarray(0, BLOCK));
    });

    const allButOne = () => proxy.until((status) => status.presentBytes === SIZE - BLOCK, 20_000);

    it('costs one block of a fetch of 256, and is told once; the disk completes when it can be read', async () => {
      // One read over all of it: the rest is not lost with it.
      await assert.rejects(guest.read(256 * BLOCK, MIB), isEio);
      const status = await allButOne();
      assert.equal(status.state, 'relocating');
      assert.equal(status.badBytes, BLOCK);
      assert.deepEqual(status.badRanges, [{ offset: badBlock, length: BLOCK, at: 'origin' }]);
      assert.match(
        status.error!,
        /4096 bytes cannot be copied: error 5 when reading the origin, first at 1228800/,
      );
      assertSameBytes(
        await guest.read(badBlock - 40 * BLOCK, 40 * BLOCK),
        content.subarray(badBlock - 40 * BLOCK, badBlock),
      );
      assertSameBytes(
        await guest.read(badBlock + BLOCK, 40 * BLOCK),
        content.subarray(badBlock + BLOCK, badBlock + 41 * BLOCK),
      );
      await assert.rejects(guest.read(badBlock, 512), isEio);
      await assert.rejects(guest.write(badBlock + 1, Buffer.from('part')), isEio);
      assert.equal((await proxy.status()).state, 'relocating');
      await rm(path('broken'));
      const done = await completed();
      assert.deepEqual([done.error, done.badBytes, done.badRanges], [null, 0, []]);
      assertSameBytes(await readFile(path('b.img')), content);
      assert.equal(linesWith('the origin cannot read').length, 1, proxy.log());
    });

    it('is no loss when the guest writes the block: the disk becomes complete', async () => {
      await allButOne();
      const data = bytesOf(3, BLOCK);
      await guest.write(badBlock, data);
      data.copy(content, badBlock);
      assert.equal((await completed()).badBytes, 0);
      assertSameBytes(await readFile(path('b.img')), content);
    });
  });

  describe('of the image', () => {
    it('stay absent: reads are served from the origin, writes are the error of the guest, and the end waits', async function () {
      if (!installed('prlimit')) this.skip();
      const target = await startExport('target', 'disk', path('a'), ['--image', path('a.img')]);
      origin = {
        uri: target.uri,
        hasClients: () => true,
        stop: async () => {
          await target.end('SIGKILL');
        },
      };
      await startProxy();
      // From here on the kernel refuses what lies behind 3 MiB: EFBIG, an error of the disk like any other.
      const limit = (bytes: string) =>
        execFileSync('prlimit', ['--pid', String(proxy.child.pid), `--fsize=${bytes}`]);
      limit(`${3 * MIB}:unlimited`);
      await guest.write(0, content.subarray(0, BLOCK));
      const status = await proxy.until((each) => each.badBytes === MIB, 20_000);
      assert.equal(status.state, 'relocating');
      assert.equal(status.presentBytes, 3 * MIB);
      assert.deepEqual(status.badRanges, [{ offset: 3 * MIB, length: MIB, at: 'image' }]);
      assert.match(status.error!, /1048576 bytes cannot be copied: error 5 when writing the image/);
      for (let pass = 0; pass < 2; pass++)
        assertSameBytes(await guest.read(2 * MIB, 2 * MIB), content.subarray(2 * MIB));
      await assert.rejects(guest.write(3 * MIB, bytesOf(1, BLOCK)), isEio);
      assertSameBytes(await guest.read(3 * MIB, BLOCK), content.subarray(3 * MIB, 3 * MIB + BLOCK));
      await guest.write(BLOCK, bytesOf(4, BLOCK));
      bytesOf(4, BLOCK).copy(content, BLOCK);
      assert.equal((await target.status()).state, 'fenced');
      assert.ok(linesWith('the image cannot take').length <= 16, proxy.log());
      limit('unlimited');
      const done = await completed();
      assert.deepEqual([done.error, done.badBytes], [null, 0]);
      assertSameBytes(await readFile(path('b.img')), content);
    });

    it('that was present and cannot be read any more keeps the origin, until it is written anew', async function () {
      // A loop device whose file is cut off answers EIO from there on, as a disk does whose sectors are gone.
      const backing = path('backing');
      await writeFile(backing, Buffer.alloc(SIZE));
      try {
        loop = execFileSync('losetup', ['-f', '--show', '--direct-io=on', backing], {
          encoding: 'utf8',
          stdio: 'pipe',
        }).trim();
      } catch (error) {
        console.log(`skipped: no loop device with direct I/O: ${(error as Error).message.split('\n')[0]}`);
        this.skip();
      }
      const target = await startExport('target', 'disk', path('a'), ['--image', path('a.img')]);
      origin = {
        uri: target.uri,
        hasClients: () => true,
        stop: async () => {
          await target.end('SIGKILL');
        },
      };
      const wan = await startWan({ to: path('a'), rttMs: 4, rateMbit: 20 });
      try {
        proxy = await startExport('proxy', 'disk', path('b'), [
          ...['--image', loop, '--state', path('b.state'), '--origin', `nbd://${wan.address}/disk`],
        ]);
        guest = await connectClient(proxy.uri);
        const lost = SIZE - 2 * BLOCK;
        await guest.write(lost, content.subarray(lost, lost + 2 * BLOCK));
        await guest.flush();
        await proxy.until(({ presentBytes }) => presentBytes > MIB / 2);
        await wan.cut();
        await proxy.until(({ originReachable }) => !originReachable);
        await truncate(backing, lost);
        execFileSync('blockdev', ['--flushbufs', loop]);
        await assert.rejects(guest.read(lost, 2 * BLOCK), isEio);
        const status = await proxy.until(({ badBytes }) => badBytes === 2 * BLOCK);
        assert.deepEqual(status.badRanges, [{ offset: lost, length: 2 * BLOCK, at: 'image' }]);
        assert.match(status.error!, /8192 bytes of the image cannot be read any more, first at 4186112/);
        await wan.resume();
        await proxy.until(({ presentBytes }) => presentBytes === SIZE, 30_000);
        await sleep(500);
        assert.equal((await proxy.status()).state, 'relocating', 'the origin is kept');
        assert.equal((await target.status()).state, 'fenced');
        await truncate(backing, SIZE);
        await guest.write(lost, content.subarray(lost, lost + 2 * BLOCK));
        const done = await completed();
        assert.deepEqual([done.error, done.badBytes], [null, 0]);
        assertSameBytes(await guest.read(0, SIZE), content);
      } finally {
        await wan.stop();
      }
    });
  });
});
