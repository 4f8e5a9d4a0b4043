/**
 * Servers that hang up on a sector that they cannot read: its block is an error, like any other bad block,
 * and all others come. An outage is never taken for that.
 */
import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Errno } from '../../../src/nbd/constants.ts';
import { installed } from '../../lab/installed.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { type Client, connectClient, NbdError } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { type HangingUp, startHangingUp } from '../../lab/nbd/hanging-up.ts';
import { type OriginServer, startQemuNbd } from '../../lab/nbd/origin-servers.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCK = 4096;
const SIZE = 4 * 1024 * 1024;
/** Sectors of 512 bytes, in the middle of blocks. */
const BAD = [300 * BLOCK + 1024, 800 * BLOCK + 512];
const badBlocks = BAD.map((byte) => byte - (byte % BLOCK));
const isEio = (error: unknown) => error instanceof NbdError && error.errno === Errno.EIO;

describe('an origin that hangs up on what it cannot read', function () {
  this.timeout(90_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let origin: OriginServer | null;
  let proxy: ExportProcess;
  let guest: Client;
  const path = (name: string) => join(directory.path, name);

  beforeEach(async () => {
    directory = await temporaryDirectory();
    origin = null;
    content = bytesOf(31, SIZE);
    await writeFile(path('a.img'), content);
  });

  afterEach(async () => {
    await proxy.end('SIGKILL');
    await origin?.stop();
    await directory.remove();
  });

  async function takeOver(): Promise<void> {
    proxy = await startExport('proxy', 'disk', path('b'), [
      ...['--image', path('b.img'), '--origin', origin!.uri],
    ]);
    guest = await connectClient(proxy.uri);
    await guest.write(0, content.subarray(0, BLOCK));
  }

  const linesWith = (text: string) =>
    proxy
      .log()
      .split('\n')
      .filter((line) => line.includes(text));
  const read = async (offset: number, length: number) =>
    assertSameBytes(await guest.read(offset, length), content.subarray(offset, offset + length));

  async function allButTheBad(): Promise<void> {
    // The blocks around a bad one are served, be they asked for alone or together.
    await read(badBlocks[0]! - 40 * BLOCK, 40 * BLOCK);
    await read(badBlocks[0]! + BLOCK, 40 * BLOCK);
    for (const bad of badBlocks) await assert.rejects(guest.read(bad, 512), isEio);
    const status = await proxy.until(
      ({ presentBytes }) => presentBytes === SIZE - BAD.length * BLOCK,
      60_000,
    );
    assert.equal(status.state, 'relocating');
    assert.deepEqual(
      status.badRanges,
      badBlocks.map((offset) => ({ offset, length: BLOCK, at: 'origin' })),
    );
    assert.equal(status.badBytes, BAD.length * BLOCK);
    assert.match(status.error!, /8192 bytes cannot be copied: error 5 when reading the origin/);
  }

  async function completesWhenReadable(): Promise<void> {
    const status = await proxy.until((each) => each.state === 'serving' && each.origin === null, 60_000);
    assert.deepEqual([status.error, status.badBytes], [null, 0]);
    assertSameBytes(await readFile(path('b.img')), content);
    guest.disconnect();
  }

  it('qemu-nbd with bad sectors: each costs its own block, and the disk completes when they are written', async function () {
    if (!installed('qemu-nbd')) this.skip();
    origin = await startQemuNbd(directory.path, path('a.img'), BAD);
    await takeOver();
    await allButTheBad();
    assert.equal(linesWith('the server answers error 5').length, 1, proxy.log());
    for (const bad of badBlocks) {
      const data = bytesOf(bad, BLOCK);
      await guest.write(bad, data);
      data.copy(content, bad);
    }
    await completesWhenReadable();
  });

  describe('whatever it is asked', () => {
    let server: HangingUp;

    beforeEach(async function () {
      if (!installed('nbdkit')) this.skip();
      await writeFile(path('broken'), '');
      server = await startHangingUp(directory.path, path('a.img'), SIZE, path('broken'), BAD);
      origin = server;
    });

    it('loses the blocks that it hangs up on alone, tells them once, and completes when it can read them', async () => {
      await takeOver();
      await allButTheBad();
      assert.equal(linesWith('hangs up on a read').length, 1, proxy.log());
      assert.equal(linesWith('the origin cannot read').length, 2, proxy.log());
      await rm(path('broken'));
      await completesWhenReadable();
      assert.ok(linesWith('origin ').length <= 8, proxy.log());
    });

    it('that ends in the middle of each read and is not there for a while is an outage: no read fails', async () => {
      await rm(path('broken'));
      await takeOver();
      // One request on the line, each time: the server ends in order, but does not come back at once.
      server.endEach(200);
      const reads = [0, 700].map((block) => read(block * BLOCK, BLOCK));
      await server.ended(6);
      server.endEach(null);
      await Promise.all(reads);
      await completesWhenReadable();
      assert.deepEqual([...linesWith('hangs up on a read'), ...linesWith('cannot read')], []);
    });
  });
});
