/**
 * Rules 1, 2 and 3: nothing is kept before the takeover, the fence comes before the first kept block, the
 * origin's image stays as it was.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Errno } from '../../src/nbd/constants.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { connectClient, NbdError } from '../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { startWan } from '../lab/net/wan.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const SIZE = 2 * 1024 * 1024;
const BLOCK = 4096;

describe('takeover', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let origin: ExportProcess;
  let proxy: ExportProcess;
  let content: Buffer;
  const started: ExportProcess[] = [];

  beforeEach(async () => {
    directory = await temporaryDirectory();
    content = randomBytes(SIZE);
    await writeFile(join(directory.path, 'a.img'), content);
    origin = await startExport('target', 'disk', join(directory.path, 'a'), [
      '--image',
      join(directory.path, 'a.img'),
    ]);
    started.push(origin);
    proxy = await startProxy();
  });

  afterEach(async () => {
    for (const each of started.splice(0)) await each.end();
    await directory.remove();
  });

  async function startProxy({ uri }: { uri: string } = origin): Promise<ExportProcess> {
    const args = ['--image', join(directory.path, 'b.img'), '--origin', uri];
    const process = await startExport('proxy', 'disk', join(directory.path, 'b'), args);
    started.push(process);
    return process;
  }

  const blockAt = (block: number) => content.subarray(block * BLOCK, (block + 1) * BLOCK);

  it('keeps nothing of what is read before it: the block that QEMU reads early is the newer one afterwards', async () => {
    const source = await connectClient(origin.uri);
    const guest = await connectClient(proxy.uri);
    assert.deepEqual(await guest.read(0, 512), content.subarray(0, 512));
    assert.deepEqual(await guest.read(3 * BLOCK, BLOCK), blockAt(3));
    assert.equal((await proxy.status()).presentBytes, 0);
    assert.equal((await stat(join(directory.path, 'b.img'))).blocks, 0, 'the image has no block');
    // The source's guest writes on.
    const newer = randomBytes(BLOCK);
    await source.write(0, newer);
    newer.copy(content, 0);
    assert.deepEqual(await guest.read(0, BLOCK), newer, 'reads pass through');
    await proxy.call('takeover');
    assert.deepEqual(await guest.read(0, BLOCK), newer, 'what is kept is what was there at the fence');
    await proxy.until((status) => status.state === 'serving' && status.origin === null);
    assertSameBytes(await readFile(join(directory.path, 'b.img')), content);
    source.disconnect();
    guest.disconnect();
  });

  it('fences the origin before the first write is acknowledged, and never changes its image', async () => {
    const source = await connectClient(origin.uri);
    const guest = await connectClient(proxy.uri);
    await proxy.until((status) => status.state === 'standby');
    assert.equal((await origin.status()).state, 'lent');
    await source.write(BLOCK, blockAt(7));
    blockAt(7).copy(content, BLOCK);
    await guest.write(2 * BLOCK + 100, Buffer.from('written at the destination'));
    const refused = await source.write(BLOCK, blockAt(8)).catch((error: unknown) => error);
    assert.ok(refused instanceof NbdError && [Errno.EPERM, Errno.ESHUTDOWN].includes(refused.errno as 1));
    assertSameBytes(await readFile(join(directory.path, 'a.img')), content);
    Buffer.from('written at the destination').copy(content, 2 * BLOCK + 100);
    await proxy.until((status) => status.state === 'serving' && status.origin === null);
    assert.equal((await origin.status()).state, 'retired');
    assertSameBytes(await guest.read(0, SIZE), content);
    assert.equal((await proxy.status()).generation, (await origin.status()).generation + 1);
  });

  it("is begun by the orderly disconnect of the source's last client, and by nothing less", async () => {
    const first = await connectClient(origin.uri);
    const second = await connectClient(origin.uri);
    const guest = await connectClient(proxy.uri);
    await guest.flush();
    first.disconnect();
    await guest.read(0, BLOCK);
    await origin.until((status) => status.clients === 1);
    assert.equal(
      (await proxy.status()).state,
      'standby',
      'a flush, a read and one of two disconnects are no switchover',
    );
    second.disconnect();
    await proxy.until((status) => status.state === 'serving' && status.origin === null);
    assertSameBytes(await readFile(join(directory.path, 'b.img')), content);
  });

  it("is not begun by a link of the source's client that merely breaks", async () => {
    const source = await connectClient(origin.uri);
    await origin.until((status) => status.clients === 1);
    source.connection.destroy();
    await origin.until((status) => status.clients === 0);
    const reader = await connectClient(origin.uri);
    reader.disconnect();
    await origin.until((status) => status.clients === 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal((await proxy.status()).state, 'standby');
  });

  it('can be given up in standby: the origin goes on, nothing is left', async () => {
    const source = await connectClient(origin.uri);
    const guest = await connectClient(proxy.uri);
    await guest.read(0, BLOCK);
    await proxy.call('abandon');
    assert.equal(await proxy.ended(), 0);
    await assert.rejects(stat(join(directory.path, 'b.img')), /ENOENT/);
    await assert.rejects(stat(join(directory.path, 'b.img.xnbd')), /ENOENT/);
    await origin.until((status) => status.state === 'serving' && status.lease === null);
    await source.write(0, blockAt(5));
    assert.deepEqual(await source.read(0, BLOCK), blockAt(5));
  });

  it('can be given up after it while nothing was written: the fence is lifted', async () => {
    await proxy.call('abandon');
    await proxy.ended();
    // On this line the copy takes longer than the test.
    const wan = await startWan({ to: origin.socket, rttMs: 1, rateMbit: 1 });
    try {
      proxy = await startProxy({ uri: `nbd://${wan.address}/disk` });
      const source = await connectClient(origin.uri);
      await proxy.call('takeover');
      await assert.rejects(source.write(0, blockAt(9)), NbdError);
      await proxy.call('abandon');
      assert.equal((await origin.status()).state, 'serving');
      await source.write(0, blockAt(9));
      assert.deepEqual(await source.read(0, BLOCK), blockAt(9));
      await assert.rejects(stat(join(directory.path, 'b.img')), /ENOENT/);
    } finally {
      await wan.stop();
    }
  });

  it('cannot be given up once a write was acknowledged', async () => {
    const guest = await connectClient(proxy.uri);
    await guest.write(0, blockAt(1));
    await assert.rejects(
      proxy.call('abandon'),
      /holds writes that exist nowhere else: it cannot be abandoned/,
    );
    guest.disconnect();
  });

  it('goes on after kill -9 of the proxy right after the first write', async () => {
    const guest = await connectClient(proxy.uri);
    const written = randomBytes(BLOCK);
    await guest.write(5 * BLOCK, written);
    await proxy.end('SIGKILL');
    written.copy(content, 5 * BLOCK);
    proxy = await startProxy();
    await proxy.until((status) => status.state === 'serving' && status.origin === null);
    assertSameBytes(await readFile(join(directory.path, 'b.img')), content);
  });

  it('a disk that has arrived moves on, and its origin stays out of it', async () => {
    await proxy.call('takeover');
    await proxy.until((status) => status.state === 'serving' && status.origin === null);
    const c = await startExport('proxy', 'disk', join(directory.path, 'c'), [
      '--image',
      join(directory.path, 'c.img'),
      '--origin',
      proxy.uri,
    ]);
    started.push(c);
    await c.call('takeover');
    const status = await c.until(({ state, origin: left }) => state === 'serving' && left === null);
    assert.equal(status.generation, 3);
    assert.equal((await proxy.status()).state, 'retired');
    assertSameBytes(await readFile(join(directory.path, 'c.img')), content);
  });

  it('a disk moves on before it has arrived: C from B from A, and in the end both are retired', async () => {
    await proxy.call('abandon');
    await proxy.ended();
    const wan = await startWan({ to: origin.socket, rttMs: 1, rateMbit: 10 });
    try {
      proxy = await startProxy({ uri: `nbd://${wan.address}/disk` });
      const guest = await connectClient(proxy.uri);
      await guest.write(3 * BLOCK, blockAt(4));
      blockAt(4).copy(content, 3 * BLOCK);
      // However long C takes to start, B does not become complete meanwhile.
      await wan.stall();
      const args = ['--image', join(directory.path, 'c.img'), '--origin', proxy.uri];
      const c = await startExport('proxy', 'disk', join(directory.path, 'c'), args);
      started.push(c);
      await c.call('takeover');
      assert.equal((await proxy.status()).state, 'fenced');
      assert.ok((await proxy.status()).presentBytes < SIZE, 'B is not complete yet');
      await wan.resume();
      await assert.rejects(guest.write(0, blockAt(1)), NbdError);
      const status = await c.until(({ state, origin: left }) => state === 'serving' && left === null, 30_000);
      assert.equal(status.generation, 3);
      await proxy.until(({ state, origin: left }) => state === 'retired' && left === null);
      assert.equal((await origin.status()).state, 'retired');
      assertSameBytes(await readFile(join(directory.path, 'c.img')), content);
    } finally {
      await wan.stop();
    }
  });
});
