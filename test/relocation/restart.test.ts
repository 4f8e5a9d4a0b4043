/**
 * A proxy that is stopped, killed or cut off goes on where it was; what does not belong to it is refused and
 * left as it is.
 */
import assert from 'node:assert/strict';
import { copyFile, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { bytesOf } from '../lab/model/content.ts';
import { assertSameBytes } from '../lab/model/same-bytes.ts';
import { type Client, connectClient } from '../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { useExports } from '../lab/nbd/use-exports.ts';
import type { Wan } from '../lab/net/wan.ts';

const BLOCK = 4096;
const SIZE = 4 * 1024 * 1024;

describe('a proxy started again', function () {
  this.timeout(60_000);
  const { path, start, line } = useExports();
  let content: Buffer;
  let origin: ExportProcess;
  let wan: Wan;
  let slowUri: string;

  beforeEach(async () => {
    content = bytesOf(3, SIZE);
    await writeFile(path('a.img'), content);
    origin = await start('target', 'a');
    wan = await line('a', { rttMs: 10, rateMbit: 20 });
    slowUri = `nbd://${wan.address}/disk`;
  });

  const startProxy = (uri = slowUri, ...more: string[]) => start('proxy', 'b', ['--origin', uri, ...more]);

  const completed = (proxy: ExportProcess) =>
    proxy.until((status) => status.state === 'serving' && status.origin === null, 30_000);

  async function write(guest: Client, offset: number, data: Buffer): Promise<void> {
    await guest.write(offset, data);
    data.copy(content, offset);
  }

  async function partlyCopied(): Promise<ExportProcess> {
    const proxy = await startProxy();
    const guest = await connectClient(proxy.uri);
    await write(guest, SIZE - 5 * BLOCK, bytesOf(4, BLOCK));
    await proxy.until((status) => status.presentBytes > SIZE / 4);
    guest.disconnect();
    return proxy;
  }

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    it(`after ${signal} goes on where it was, and fetches nothing twice`, async () => {
      let proxy = await partlyCopied();
      const before = (await proxy.status()).presentBytes;
      await proxy.end(signal);
      // What was under way may have to come again.
      const underWay = 1024 * 1024;
      proxy = await startProxy();
      const after = await proxy.status();
      assert.equal(after.state, 'relocating');
      assert.ok(after.presentBytes >= before, `${after.presentBytes} bytes are present, before ${before}`);
      assert.ok(after.presentBytes < SIZE, 'the test would prove nothing otherwise');
      await completed(proxy);
      assertSameBytes(await readFile(path('b.img')), content);
      const { downBytes } = await wan.stats();
      assert.ok(downBytes < SIZE + underWay, `${downBytes} bytes came from the origin`);
      await origin.until((status) => status.state === 'retired');
    });
  }

  it('after kill -9 in standby is in standby again, and the origin goes on', async () => {
    let proxy = await startProxy();
    await proxy.end('SIGKILL');
    await origin.until((status) => status.state === 'serving');
    const source = await connectClient(origin.uri);
    await write(source, 0, bytesOf(5, BLOCK));
    proxy = await startProxy();
    assert.equal((await proxy.status()).state, 'standby');
    const guest = await connectClient(proxy.uri);
    assertSameBytes(await guest.read(0, BLOCK), content.subarray(0, BLOCK));
    await write(source, 0, bytesOf(6, BLOCK));
    assertSameBytes(await guest.read(0, BLOCK), content.subarray(0, BLOCK));
    await proxy.call('takeover');
    await completed(proxy);
    assertSameBytes(await readFile(path('b.img')), content);
    guest.disconnect();
    source.connection.destroy();
  });

  it('when complete is a target: it needs no origin, and may be started as one', async () => {
    let proxy = await startProxy(origin.uri, '--takeover', 'now');
    await completed(proxy);
    await proxy.end('SIGKILL');
    await origin.end();
    proxy = await startProxy(origin.uri);
    assert.equal((await proxy.status()).state, 'serving');
    const guest = await connectClient(proxy.uri);
    assertSameBytes(await guest.read(0, SIZE), content);
    await proxy.end();
    const target = await start('target', 'b');
    assert.equal((await target.status()).generation, 2);
  });

  it('a link that is cut: what is present is served, the rest waits and comes', async () => {
    const proxy = await partlyCopied();
    await wan.cut();
    await proxy.until((status) => !status.originReachable);
    const guest = await connectClient(proxy.uri);
    const from = performance.now();
    assertSameBytes(await guest.read(0, 64 * 1024), content.subarray(0, 64 * 1024));
    await write(guest, 0, bytesOf(8, BLOCK));
    await write(guest, SIZE - BLOCK, bytesOf(9, BLOCK));
    await guest.flush();
    assert.ok(performance.now() - from < 5000, 'what is present does not wait for the network');
    const absent = SIZE - 64 * BLOCK;
    const [late, partial] = [guest.read(absent, BLOCK), guest.write(absent + BLOCK + 7, Buffer.from('!'))];
    const first = await Promise.race([
      late,
      partial,
      new Promise((resolve) => setTimeout(resolve, 300, 'waits')),
    ]);
    assert.equal(first, 'waits');
    const status = await proxy.status();
    assert.ok(status.originUnreachableSince !== null);
    await wan.resume();
    assertSameBytes(await late, content.subarray(absent, absent + BLOCK));
    await partial;
    content.write('!', absent + BLOCK + 7);
    const done = await completed(proxy);
    assert.equal(done.error, null);
    assertSameBytes(await readFile(path('b.img')), content);
    guest.disconnect();
  });

  it('a link that stalls: the same, and nothing is lost', async () => {
    const proxy = await partlyCopied();
    await wan.stall();
    const guest = await connectClient(proxy.uri);
    assertSameBytes(await guest.read(0, 64 * 1024), content.subarray(0, 64 * 1024));
    await write(guest, BLOCK, bytesOf(8, BLOCK));
    const late = guest.read(SIZE - 64 * BLOCK, BLOCK);
    await new Promise((resolve) => setTimeout(resolve, 200));
    await wan.resume();
    assertSameBytes(await late, content.subarray(SIZE - 64 * BLOCK, SIZE - 63 * BLOCK));
    await completed(proxy);
    assertSameBytes(await readFile(path('b.img')), content);
    guest.disconnect();
  });

  it('while the origin is away: serves what is present, does not spin, and goes on', async () => {
    let proxy = await partlyCopied();
    await proxy.end();
    await wan.cut();
    proxy = await startProxy();
    const guest = await connectClient(proxy.uri);
    assertSameBytes(await guest.read(0, 64 * 1024), content.subarray(0, 64 * 1024));
    const before = await cpuTicks(proxy.child.pid!);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const used = (await cpuTicks(proxy.child.pid!)) - before;
    assert.ok(used < 25, `${used * 10} ms of CPU in a second of waiting`);
    await wan.resume();
    await completed(proxy);
    assertSameBytes(await readFile(path('b.img')), content);
    guest.disconnect();
  });

  it('can be stopped at once while a write waits for an origin that is away', async () => {
    const proxy = await partlyCopied();
    await wan.cut();
    await proxy.until((status) => !status.originReachable);
    const guest = await connectClient(proxy.uri);
    const partial = guest.write(SIZE - 64 * BLOCK + 1, Buffer.from('!')).catch(() => 'lost');
    await new Promise((resolve) => setTimeout(resolve, 100));
    const from = performance.now();
    await proxy.end();
    assert.ok(performance.now() - from < 5000, 'nothing that waits for the origin holds up the end');
    assert.equal(await partial, 'lost');
    await wan.resume();
    await completed(await startProxy());
    assertSameBytes(await readFile(path('b.img')), content);
  });

  describe('refuses in one line, and loses nothing:', () => {
    let proxy: ExportProcess;

    beforeEach(async () => {
      proxy = await partlyCopied();
    });

    async function refuses(args: string[], why: RegExp): Promise<void> {
      await assert.rejects(startExport('proxy', 'disk', path('c'), args), ({ message }: Error) => {
        const errors = message.split('\n').filter((line) => line.includes(' error: '));
        assert.equal(errors.length, 1, message);
        assert.match(errors[0]!, why);
        return true;
      });
    }

    async function goesOn(): Promise<void> {
      // The same disk by another way, a faster one.
      const again = await startProxy(origin.uri);
      await completed(again);
      assertSameBytes(await readFile(path('b.img')), content);
    }

    it('a second process on the same state', async () => {
      await refuses(
        ['--image', path('b.img'), '--origin', slowUri],
        /b\.img\.xnbd is in use by another xnbd-export/,
      );
      await completed(proxy);
      assertSameBytes(await readFile(path('b.img')), content);
    });

    it("another image with this one's state", async () => {
      await proxy.end();
      await copyFile(path('b.img'), path('c.img'));
      const state = ['--state', path('b.img.xnbd')];
      await refuses(
        ['--image', path('c.img'), '--origin', slowUri, ...state],
        /belongs to the image .*b\.img, not .*c\.img/,
      );
      await goesOn();
    });

    it('another file in the place of the image', async () => {
      await proxy.end();
      await rename(path('b.img'), path('kept.img'));
      await copyFile(path('kept.img'), path('b.img'));
      await refuses(['--image', path('b.img'), '--origin', slowUri], /map of another disk: its inode is/);
      await rename(path('kept.img'), path('b.img'));
      await goesOn();
    });

    it('an image of another size', async () => {
      await proxy.end();
      await rename(path('b.img'), path('kept.img'));
      await writeFile(path('b.img'), Buffer.alloc(BLOCK));
      await refuses(
        ['--image', path('b.img'), '--origin', slowUri],
        /b\.img has 4096 bytes, its record says 4194304/,
      );
      await rename(path('kept.img'), path('b.img'));
      await goesOn();
    });

    it("another disk's map", async () => {
      await proxy.end();
      await writeFile(path('x.img'), content);
      const other = await start('target', 'x');
      const second = await start('proxy', 'y', ['--origin', other.uri, '--takeover', 'now']);
      await completed(second);
      // Its map is gone with its completion; what it was is made from ours with its identity.
      const map = path('b.img.xnbd/present.map');
      const bytes = await readFile(map);
      await copyFile(map, path('kept.map'));
      const uuid = (await second.status()).uuid;
      const header = JSON.parse(bytes.toString('utf8', 0, bytes.indexOf('\n'))) as Record<string, unknown>;
      bytes.fill(0, 0, 4096).write(`${JSON.stringify({ ...header, uuid })}\n`);
      await writeFile(map, bytes);
      await refuses(['--image', path('b.img'), '--origin', slowUri], /map of another disk: its uuid is/);
      await copyFile(path('kept.map'), map);
      await goesOn();
    });

    it('no map at all', async () => {
      await proxy.end();
      await rename(path('b.img.xnbd/present.map'), path('kept.map'));
      await refuses(['--image', path('b.img'), '--origin', slowUri], /present\.map/);
      await rename(path('kept.map'), path('b.img.xnbd/present.map'));
      await goesOn();
    });

    it('a start as a target', async () => {
      await proxy.end();
      await assert.rejects(
        startExport('target', 'disk', path('c'), ['--image', path('b.img')]),
        /still misses blocks: start it as a proxy/,
      );
      await goesOn();
    });

    it('another disk as the origin: it is not fetched from', async () => {
      await proxy.end();
      const present = (await readFile(path('b.img'))).length;
      assert.equal(present, SIZE);
      await writeFile(path('x.img'), bytesOf(99, SIZE));
      const other = await start('target', 'x');
      const wrong = await startProxy(other.uri);
      const status = await wrong.until(({ error }) => error !== null);
      assert.match(status.error!, /another disk/);
      assert.equal(status.originReachable, false);
      await wrong.end();
      await rm(path('x.img'));
      await goesOn();
    });
  });
});

/** CPU time of a process, in hundredths of a second. */
async function cpuTicks(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
  return Number(fields[11]) + Number(fields[12]);
}
