/**
 * Storage that loses what it had accepted, while a disk arrives on it: nothing that is lost is taken for
 * present, nor the origin let go over it.
 */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { Errno } from '../../src/nbd/constants.ts';
import { type LossyStorage, lossyStorage } from '../lab/host/lossy-storage.ts';
import { bytesOf } from '../lab/model/content.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { connectClient, NbdError } from '../lab/nbd/client.ts';
import { useExports } from '../lab/nbd/use-exports.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const BLOCK = 4096;
const MIB = 1024 * 1024;
const SIZE = 24 * MIB;
const isEio = (error: unknown) => error instanceof NbdError && error.errno === Errno.EIO;

describe('storage that loses what it had accepted', function () {
  this.timeout(120_000);
  const { path, start, line } = useExports();
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let storage: LossyStorage;
  let content: Buffer;

  beforeEach(async function () {
    directory = await temporaryDirectory();
    try {
      storage = await lossyStorage(directory.path, 64 * MIB);
    } catch (error) {
      console.log(`skipped: no such storage can be made here: ${(error as Error).message.split('\n')[0]}`);
      await directory.remove();
      this.skip();
    }
    await storage.addThin('b.img', SIZE);
    content = bytesOf(5, SIZE);
    await writeFile(path('a.img'), content);
    await start('target', 'a');
  });
  // The exports have ended by then.
  afterEach(async () => {
    storage.end();
    await directory.remove();
  });

  /** What a host that has lost its page cache would read. */
  const onDisk = async (image: string): Promise<Buffer> => {
    storage.remount();
    return await readFile(image);
  };

  const image = () => join(storage.path, 'b.img');
  const startProxy = (args: readonly string[]) => start('proxy', 'b', args, relative(path('.'), image()));
  const originOver = async (): Promise<string> =>
    `nbd://${(await line('a', { rttMs: 1, rateMbit: 40 })).address}/disk`;

  it('because it is full: a restart knows that a sync failed, though the state is on the same storage', async () => {
    const args = ['--origin', await originOver(), '--state', join(storage.path, 'state')];
    const first = await startProxy([...args, '--takeover', 'now']);
    const guest = await connectClient(first.uri);
    const kept = bytesOf(1, BLOCK);
    await guest.write(40 * BLOCK, kept);
    kept.copy(content, 40 * BLOCK);
    await guest.flush();
    storage.fill(2 * MIB);
    const lost = bytesOf(2, 8 * BLOCK);
    await first.until(({ presentBytes }) => presentBytes > 12 * MIB, 40_000);
    await guest.write(5000 * BLOCK, lost);
    await assert.rejects(guest.flush(), isEio);
    const failed = await first.status();
    assert.match(failed.error!, /a sync of .*b\.img failed: nothing is kept any more; mend its storage/);
    await assert.rejects(guest.write(41 * BLOCK, kept), isEio);
    await first.end('SIGKILL');

    storage.makeRoom();
    const second = await startProxy(args);
    const status = await second.status();
    assert.equal(status.state, 'relocating');
    assert.match(
      status.error!,
      /^32768 bytes that the guest wrote, first at 20480000, are lost \(a sync of /,
    );
    assert.match(second.log(), /32768 bytes that the guest wrote, first at 20480000, are lost/);
    await second.until(({ state, origin }) => state === 'serving' && origin === null, 60_000);
    await second.end();
    assertSameBytes(await onDisk(image()), content);
  });

  it('because it went away and came back within one boot, with the state on other storage', async () => {
    const args = ['--origin', await originOver(), '--state', path('state')];
    const first = await startProxy([...args, '--takeover', 'now']);
    const guest = await connectClient(first.uri);
    const kept = bytesOf(1, BLOCK);
    await guest.write(40 * BLOCK, kept);
    kept.copy(content, 40 * BLOCK);
    await guest.flush();
    await first.until(({ presentBytes }) => presentBytes > 6 * MIB, 40_000);
    await guest.write(5000 * BLOCK, bytesOf(2, 8 * BLOCK));
    await first.end('SIGKILL');
    storage.loseAndRemount();

    const second = await startProxy(args);
    assert.match(
      (await second.status()).error!,
      /^32768 bytes that the guest wrote, first at 20480000, are lost/,
    );
    await second.until(({ state, origin }) => state === 'serving' && origin === null, 60_000);
    await second.end();
    assertSameBytes(await onDisk(image()), content);
  });

  it('under a target: its status says so, and the log once', async () => {
    const target = await start('target', 'b', ['--state', path('state')], relative(path('.'), image()));
    const guest = await connectClient(target.uri);
    assert.equal((await target.status()).error, null);
    storage.fill(MIB);
    await guest.write(0, content.subarray(0, 8 * MIB));
    for (let times = 0; times < 5; times++) await assert.rejects(guest.flush(), isEio);
    assert.match(
      (await target.status()).error!,
      /b\.img: a sync failed \(\w+\): what was written since .* mend/,
    );
    assert.equal(target.log().split('a sync failed').length, 2, target.log());
  });

  it('is not what a plain kill -9 is: all that was acknowledged is there', async () => {
    const args = ['--origin', await originOver(), '--state', join(storage.path, 'state')];
    const first = await startProxy([...args, '--takeover', 'now']);
    const guest = await connectClient(first.uri);
    const data = bytesOf(2, 8 * BLOCK);
    await guest.write(5000 * BLOCK, data);
    data.copy(content, 5000 * BLOCK);
    await first.end('SIGKILL');
    const second = await startProxy(args);
    await second.until(({ state, origin }) => state === 'serving' && origin === null, 60_000);
    assert.equal((await second.status()).error, null);
    await second.end();
    assertSameBytes(await onDisk(image()), content);
  });
});
