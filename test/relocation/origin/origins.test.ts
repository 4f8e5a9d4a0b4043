/**
 * Rule 11: any NBD server is an origin: those that answer out of order, without block status, in limited
 * sizes, one client only.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Errno } from '../../../src/nbd/constants.ts';
import { installed, isInstalled } from '../../lab/installed.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { Random } from '../../lab/model/random.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { type Client, connectClient, NbdError } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import {
  hasClients,
  type OriginServer,
  startNbdkit,
  startNbdServer,
  startQemuNbd,
} from '../../lab/nbd/origin-servers.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';
import { waitFor } from '../../lab/wait-for.ts';

const BLOCK = 4096;
/** Not a whole number of blocks. */
const SIZE = 6 * 1024 * 1024 + 512;
const HOLE = { from: 2 * 1024 * 1024, to: 4 * 1024 * 1024 };

interface Kind {
  name: string;
  needs: string[];
  start(directory: string, image: string): Promise<OriginServer>;
  /** What the proxy has to be told of it. */
  proxyArgs?: string[];
  /** It tells its holes. */
  tellsHoles: boolean;
  /** Size of the disk; default SIZE. */
  size?: number;
}

/** Reads take 0 to 40 ms, by nobody's order. */
const unevenReads = (image: string) => [
  'eval',
  'thread_model=echo parallel',
  `get_size=stat -c %s ${image}`,
  `pread=sleep 0.0$(( ($4 / 4096) * 7 % 5 )); dd if=${image} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k 2>/dev/null`,
];

const kinds: Kind[] = [
  {
    name: 'nbdkit file',
    needs: ['nbdkit'],
    start: (dir, image) => startNbdkit(dir, ['file', image]),
    tellsHoles: true,
  },
  {
    name: 'nbdkit that answers out of order',
    needs: ['nbdkit'],
    start: (dir, image) => startNbdkit(dir, unevenReads(image)),
    tellsHoles: false,
  },
  {
    name: 'nbdkit without block status',
    needs: ['nbdkit'],
    start: (dir, image) => startNbdkit(dir, ['--filter=noextents', 'file', image]),
    tellsHoles: false,
  },
  {
    name: 'nbdkit with limits on sizes',
    needs: ['nbdkit'],
    start: (dir, image) => startNbdkit(dir, ['--filter=blocksize-policy', 'file', image, ...limits(4096)]),
    tellsHoles: true,
    size: 6 * 1024 * 1024,
  },
  {
    name: 'nbdkit with a minimum above our block',
    needs: ['nbdkit'],
    start: (dir, image) => startNbdkit(dir, ['--filter=blocksize-policy', 'file', image, ...limits(65536)]),
    tellsHoles: true,
    size: 6 * 1024 * 1024,
  },
  {
    name: 'qemu-nbd, one client only',
    needs: ['qemu-nbd'],
    start: startQemuNbd,
    tellsHoles: true,
    size: 6 * 1024 * 1024,
  },
  {
    name: 'nbdkit, oldstyle',
    needs: ['nbdkit'],
    start: (dir, image) => startNbdkit(dir, ['--oldstyle', 'file', image]),
    proxyArgs: ['--allow-oldstyle'],
    tellsHoles: false,
  },
  { name: 'nbd-server', needs: ['nbd-server'], start: startNbdServer, tellsHoles: false },
  {
    name: 'a target of ours',
    needs: [],
    start: async (dir, image) => {
      const target = await startExport('target', 'disk', join(dir, 'a'), ['--image', image]);
      return {
        uri: target.uri,
        hasClients: () => hasClients(target.socket),
        stop: async () => {
          await target.end();
        },
      };
    },
    tellsHoles: true,
  },
];

function limits(minimum: number): string[] {
  const sizes = [`blocksize-minimum=${minimum}`, 'blocksize-preferred=65536', 'blocksize-maximum=131072'];
  return ['blocksize-error-policy=error', ...sizes];
}

describe('origins', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let model: Buffer;
  let origin: OriginServer | null;
  let proxy: ExportProcess | null;
  let guest: Client;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    origin = null;
    proxy = null;
  });

  afterEach(async () => {
    await proxy?.end();
    await origin?.stop();
    await directory.remove();
  });

  async function makeImage(size = SIZE): Promise<string> {
    const image = join(directory.path, 'a.img');
    content = bytesOf(7, size);
    content.fill(0, HOLE.from, HOLE.to);
    await writeFile(image, content);
    execFileSync('fallocate', ['-p', '-o', String(HOLE.from), '-l', String(HOLE.to - HOLE.from), image]);
    model = Buffer.from(content);
    return image;
  }

  async function startProxy(args: string[] = []): Promise<void> {
    proxy = await startExport('proxy', 'disk', join(directory.path, 'b'), [
      '--image',
      join(directory.path, 'b.img'),
      '--origin',
      origin!.uri,
      ...args,
    ]);
    guest = await connectClient(proxy.uri);
  }

  async function write(offset: number, data: Buffer): Promise<void> {
    await guest.write(offset, data);
    data.copy(model, offset);
  }

  const completed = () =>
    proxy!.until((status) => status.state === 'serving' && status.origin === null, 30_000);
  const image = () => readFile(join(directory.path, 'b.img'));

  for (const kind of kinds) {
    it(`${kind.name}: read through, take over by a write, copy every byte, let go`, async function () {
      for (const program of kind.needs) {
        if (isInstalled(program)) continue;
        console.log(`skipped: ${program} is not installed`);
        this.skip();
      }
      origin = await kind.start(directory.path, await makeImage(kind.size));
      await startProxy(kind.proxyArgs);
      for (const [offset, length] of [
        [0, 512],
        [100_001, 70_000],
        [HOLE.from - 5, 10],
        [content.length - 300, 300],
      ] as const)
        assertSameBytes(await guest.read(offset, length), content.subarray(offset, offset + length));
      let status = await proxy!.status();
      assert.deepEqual([status.state, status.presentBytes], ['standby', 0]);
      if (kind.tellsHoles) assert.equal(status.originDataBytes, content.length - (HOLE.to - HOLE.from));
      assert.equal((await stat(join(directory.path, 'b.img'))).blocks, 0, 'nothing is kept in standby');

      const random = new Random(11).fraction;
      const work: Promise<unknown>[] = [];
      for (let at = 0; at < 30; at++) {
        const offset = Math.floor(random() * (content.length - 10_000));
        // One after the other: which of two at once wins is not the question here.
        await write(offset, bytesOf(at, 1 + Math.floor(random() * 9000)));
        const where = Math.floor(random() * (content.length - 50_000));
        const expected = Buffer.from(model.subarray(where, where + 50_000));
        work.push(guest.read(where, 50_000).then((seen) => assert.ok(seen.length === expected.length)));
      }
      await Promise.all(work);
      assertSameBytes(await guest.read(0, content.length), model);
      status = await completed();
      assert.equal(status.error, null);
      assert.equal(status.presentBytes, content.length);
      assertSameBytes(await image(), model);
      assertSameBytes(await guest.read(0, content.length), model, 'its clients are undisturbed');
      await waitFor('the origin still has a client', () => !origin!.hasClients());
      assertSameBytes(
        await readFile(join(directory.path, 'a.img')),
        content,
        "the origin's image was changed",
      );
      if (kind.tellsHoles) {
        assert.ok(status.skippedBytes > 0, 'holes are skipped');
        const { onDemandBytes, backgroundBytes } = status;
        assert.ok(onDemandBytes + backgroundBytes + status.skippedBytes <= content.length + 200 * BLOCK);
        const allocated = (await stat(join(directory.path, 'b.img'))).blocks * 512;
        assert.ok(allocated < content.length - 1024 * 1024, `the copy is sparse: ${allocated} bytes`);
      }
      guest.disconnect();
    });
  }

  it('a read over hundreds of absent runs is answered', async function () {
    if (!installed('nbdkit')) this.skip();
    const path = await makeImage();
    // Slow enough for the guest to be there first.
    origin = await startNbdkit(directory.path, [
      '--threads=64',
      '--filter=delay',
      'file',
      path,
      'rdelay=200ms',
      'delay-extents=3',
    ]);
    await startProxy();
    const writes: Promise<void>[] = [];
    for (let block = 0; block < 1024; block += 2) writes.push(write(block * BLOCK, bytesOf(block, BLOCK)));
    await Promise.all(writes);
    const before = await proxy!.status();
    assert.ok(before.presentBytes < 3 * 1024 * 1024, 'every other block is absent');
    assertSameBytes(await guest.read(0, 4 * 1024 * 1024), model.subarray(0, 4 * 1024 * 1024));
    await completed();
    assertSameBytes(await image(), model);
    guest.disconnect();
  });

  it('an origin that answers EIO: never zeros, never complete, shown; complete once it can read again', async function () {
    if (!installed('nbdkit')) this.skip();
    const trigger = join(directory.path, 'broken');
    await writeFile(trigger, '');
    const path = await makeImage();
    origin = await startNbdkit(directory.path, [
      '--filter=error',
      'file',
      path,
      'error-pread=EIO',
      'error-pread-rate=100%',
      `error-file=${trigger}`,
    ]);
    await startProxy();
    const refused = (error: unknown) => error instanceof NbdError && error.errno === Errno.EIO;
    await assert.rejects(guest.read(0, BLOCK), refused);
    await write(BLOCK, bytesOf(1, BLOCK));
    await proxy!.until((status) => /error 5/.test(status.error ?? ''));
    await assert.rejects(guest.read(0, BLOCK), refused);
    await assert.rejects(guest.write(10, Buffer.from('part')), refused);
    assertSameBytes(
      await guest.read(BLOCK, BLOCK),
      model.subarray(BLOCK, 2 * BLOCK),
      'what is here is served',
    );
    const status = await proxy!.status();
    assert.equal(status.state, 'relocating');
    assert.ok(status.presentBytes <= HOLE.to - HOLE.from + BLOCK);
    await rm(trigger);
    assert.equal((await completed()).error, null);
    assertSameBytes(await guest.read(0, SIZE), model);
    assertSameBytes(await image(), model);
    guest.disconnect();
  });

  it('refuses an oldstyle origin unless told otherwise (CVE-2019-14842), and leaves nothing behind', async function () {
    if (!installed('nbdkit')) this.skip();
    origin = await startNbdkit(directory.path, ['--oldstyle', 'file', await makeImage()]);
    await assert.rejects(startProxy(), /speaks oldstyle NBD only.*--allow-oldstyle/);
    await assert.rejects(stat(join(directory.path, 'b.img')));
  });
});
