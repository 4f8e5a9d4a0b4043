/**
 * The self-check: a disk that is equal to its origin passes, by hashes; one wrong byte is found; what the
 * guest writes is no fault.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExportStatus, VerificationStatus } from '../../../src/control/status.ts';
import { installed } from '../../lab/installed.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { Random } from '../../lab/model/random.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { type Client, connectClient } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { startNbdkit } from '../../lab/nbd/origin-servers.ts';
import { startForgetfulRelay } from '../../lab/net/forgetful-relay.ts';
import { startWan, type Wan } from '../../lab/net/wan.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCK = 4096;
const MIB = 1024 * 1024;
/** Not a whole number of blocks. */
const SIZE = 6 * MIB + 512;
/** A hole of the origin. */
const HOLE = { from: 4 * MIB, to: 5 * MIB };
/** The block that is made to differ; no guest of these tests writes it. */
const WRONG = 7;
const RUNS = Number(process.env['XNBD_VERIFY_RUNS'] ?? '6');

const isOver = ({ verification }: ExportStatus): boolean =>
  verification !== null && verification.state !== 'running';
const isHeld = ({ verification }: ExportStatus): boolean => verification?.state === 'differs';
const isLetGo = ({ state, origin }: ExportStatus): boolean => state === 'serving' && origin === null;

describe('a disk compared with its origin', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let content: Buffer;
  let origin: ExportProcess;
  let wan: Wan;
  const started: ExportProcess[] = [];
  const clean: (() => void | Promise<void>)[] = [];

  beforeEach(async () => {
    directory = await temporaryDirectory();
    content = bytesOf(3, SIZE);
    content.fill(0, HOLE.from, HOLE.to);
    const image = await open(path('a.img'), 'w');
    await image.write(content, 0, HOLE.from, 0);
    await image.write(content, HOLE.to, SIZE - HOLE.to, HOLE.to);
    await image.close();
    origin = await start('target', 'a', ['--image', path('a.img')]);
    wan = await startWan({ to: path('a'), rttMs: 10, rateMbit: 100 });
  });

  afterEach(async () => {
    await wan.resume();
    for (const each of started.splice(0).reverse()) await each.end('SIGKILL');
    for (const each of clean.splice(0)) await each();
    await wan.stop();
    await directory.remove();
  });

  const path = (name: string) => join(directory.path, name);
  const overWan = () => `nbd://${wan.address}/disk`;

  async function start(kind: 'target' | 'proxy', name: string, args: string[]): Promise<ExportProcess> {
    const process = await startExport(kind, 'disk', path(name), args);
    started.push(process);
    return process;
  }

  const startProxy = (...more: string[]) => startProxyOf(overWan(), ...more);
  const startProxyOf = (uri: string, ...more: string[]) =>
    start('proxy', 'b', ['--image', path('b.img'), '--origin', uri, ...more]);

  async function connect(proxy: ExportProcess): Promise<Client> {
    const guest = await connectClient(proxy.uri);
    clean.push(() => guest.connection.destroy());
    return guest;
  }

  /**
   * Takes over and has one block there that is not as it was at the origin; the guest has written nothing of
   * it.
   */
  async function startWithFault(uri = overWan(), ...more: string[]): Promise<ExportProcess> {
    // Slowly, so that the block is there before the disk is complete.
    await wan.stop();
    wan = await startWan({ to: path('a'), listen: wan.address, rttMs: 10, rateMbit: 20 });
    const proxy = await startProxyOf(uri, ...more);
    const guest = await connect(proxy);
    await proxy.call('takeover');
    await guest.read(WRONG * BLOCK, BLOCK);
    await spoil();
    guest.disconnect();
    return proxy;
  }

  /**
   * Flips a byte in the image, behind the proxy's back, once the block is there. The copy may have asked for
   * the same block before the guest did: what comes then is written once more, and the byte flipped again.
   */
  async function spoil(): Promise<void> {
    const file = await open(path('b.img'), 'r+');
    const block = Buffer.alloc(BLOCK);
    const expected = content.subarray(WRONG * BLOCK, (WRONG + 1) * BLOCK);
    const isThere = async (): Promise<boolean> => {
      await file.read(block, 0, BLOCK, WRONG * BLOCK);
      return block.equals(expected);
    };
    while (!(await isThere())) await sleep(10);
    for (let quiet = 0; quiet < 10; quiet++) {
      if (await isThere()) {
        block[100]! ^= 1;
        await file.write(block, 0, BLOCK, WRONG * BLOCK);
        quiet = 0;
      }
      await sleep(10);
    }
    await file.close();
  }

  async function verify(proxy: ExportProcess): Promise<VerificationStatus> {
    await proxy.call('verify');
    return (await proxy.until(isOver, 30_000)).verification!;
  }

  function assertFault({ state, different, differentBytes, error }: VerificationStatus): void {
    assert.deepEqual(
      { state, different, differentBytes, error },
      {
        state: 'differs',
        different: [{ offset: WRONG * BLOCK, length: BLOCK }],
        differentBytes: BLOCK,
        error: null,
      },
    );
  }

  /**
   * Writes, trims and zeroes a part of the disk, without a pause. Resolves once it has begun. @returns what
   * stops it
   */
  async function load(
    guest: Client,
    seed: number,
    from = (WRONG + 1) * BLOCK,
    end = SIZE,
  ): Promise<() => Promise<unknown>> {
    const random = new Random(seed).fraction;
    let stopped = false;
    let done = 0;
    const one = async (): Promise<void> => {
      while (!stopped) {
        const offset = from + Math.floor(random() * (end - from - 1));
        const length = Math.min(1 + Math.floor(random() ** 3 * 40_000), end - offset);
        const kind = random();
        // A killed proxy takes its clients with it.
        await (kind < 0.8
          ? guest.write(offset, Buffer.alloc(length, 1 + Math.floor(random() * 255)))
          : guest.change(kind < 0.9 ? 'trim' : 'zero', offset, length)
        ).then(
          () => done++,
          () => (stopped = true),
        );
      }
    };
    const all = Promise.all(Array.from({ length: 8 }, one));
    while (done === 0) await sleep(1);
    return () => {
      stopped = true;
      return all;
    };
  }

  it('passes when it is equal, and hashes travel, not data; then the origin is let go', async () => {
    const proxy = await startProxy('--verify', '--takeover', 'now');
    await proxy.until((status) => status.presentBytes === SIZE);
    await proxy.until(isLetGo);
    await origin.until((status) => status.state === 'retired');
    const { verification } = await proxy.status();
    assert.equal(verification?.state, 'passed');
    assert.equal(verification.by, 'hashes');
    assert.equal(verification.comparedBytes, SIZE);
    assert.equal(verification.differentBytes + verification.doubtfulBytes + verification.absentBytes, 0);
    const { downBytes } = await wan.stats();
    const data = SIZE - (HOLE.to - HOLE.from);
    assert.ok(downBytes < data + 64 * 1024, `${downBytes} bytes came for ${data} bytes of data`);
    assertSameBytes(await readFile(path('b.img')), content);
  });

  it('xnbdctl verify says what is so, by its exit code too', async () => {
    const proxy = await startWithFault(overWan(), '--verify');
    await proxy.until(isHeld);
    const ctl = `${path('b')}.ctl`;
    const differs = await xnbdctl('--ctl', ctl, 'verify', 'disk');
    assert.equal(differs.code, 1);
    assert.match(
      differs.stdout,
      /^disk differs from nbd:\/\/\S+ in 4096 bytes\n {2}at offset 28672: 4096 bytes\n/,
    );
    assert.match(differs.stdout, /\n {2}6\.0 MiB compared and equal, by hashes\n$/);
    assert.match(
      differs.stderr,
      /^xnbdctl: disk differs from its origin, which is kept; 'xnbdctl verify disk --accept'/,
    );
    const status = await xnbdctl('--ctl', ctl, 'status');
    assert.match(status.stdout, /^compared +differs: 6\.0 MiB equal, 4\.0 KiB different$/m);
    const file = await open(path('b.img'), 'r+');
    await file.write(content, WRONG * BLOCK, BLOCK, WRONG * BLOCK);
    await file.close();
    const equal = await xnbdctl('--ctl', ctl, 'verify');
    assert.equal(equal.code, 0, equal.stderr);
    assert.match(
      equal.stdout,
      /^disk is equal to nbd:\/\/\S+\n {2}6\.0 MiB compared and equal, by hashes\n$/,
    );
    await proxy.until(isLetGo);
    const late = await xnbdctl('--ctl', ctl, 'verify', 'disk');
    assert.deepEqual([late.code, late.stdout], [1, '']);
    assert.match(late.stderr, /^xnbdctl: disk has no origin any more: there is nothing to compare it with$/m);
    assert.match(
      (await xnbdctl('--ctl', ctl, 'verify', 'disk', '--accept')).stderr,
      /no differences from its origin/,
    );
  });

  it('is not compared unless that is asked for', async () => {
    const proxy = await startProxy('--takeover', 'now');
    await proxy.until(isLetGo);
    assert.equal((await proxy.status()).verification, null);
    await assert.rejects(
      proxy.call('verify'),
      /disk has no origin any more: there is nothing to compare it with/,
    );
    await assert.rejects(origin.call('verify'), /disk has no origin any more/);
  });

  it('in standby there is nothing to compare', async () => {
    const proxy = await startProxy();
    await assert.rejects(proxy.call('verify'), /disk is in standby: nothing of its disk is kept here/);
    await assert.rejects(proxy.call('accept'), /no differences from its origin that could be accepted/);
  });

  it('by hand, while it arrives: what is here is compared, and the relocation goes on', async () => {
    await wan.stop();
    wan = await startWan({ to: path('a'), listen: wan.address, rttMs: 10, rateMbit: 20 });
    const proxy = await startProxy('--takeover', 'now');
    await proxy.until((status) => status.presentBytes > MIB);
    const result = await verify(proxy);
    assert.equal(result.state, 'passed');
    assert.ok(result.absentBytes > 0 && result.comparedBytes > MIB / 2, JSON.stringify(result));
    assert.equal(result.comparedBytes + result.absentBytes, SIZE);
    await proxy.until(isLetGo);
  });

  it('with one wrong byte is held: the block is named, and the origin stays, through restarts', async () => {
    let proxy = await startWithFault(overWan(), '--verify');
    let status = await proxy.until(isHeld);
    assertFault(status.verification!);
    assert.equal(status.state, 'relocating');
    assert.equal(status.presentBytes, SIZE);
    assert.match(
      status.error ?? '',
      /differs from its origin: 4096 bytes \(4096 at offset 28672\); the origin is kept/,
    );
    assert.match(
      proxy.log(),
      /error: disk: the disk differs .* 'xnbdctl verify disk --accept' takes the disk as it is here/,
    );
    assert.equal((await origin.status()).state, 'fenced');
    // Another start without the option does not forget it.
    for (const option of [['--verify'], []]) {
      await proxy.end('SIGKILL');
      proxy = await startProxy(...option);
      status = await proxy.until(isHeld);
      assertFault(status.verification!);
    }
    assertFault(await verify(proxy));
    assert.equal((await origin.status()).state, 'fenced');
    const guest = await connect(proxy);
    await guest.write(0, Buffer.alloc(BLOCK));
    guest.disconnect();
    await proxy.call('accept');
    await proxy.until(isLetGo);
    await origin.until(({ state }) => state === 'retired');
  });

  it('with a fault that has been put right passes, and is let go', async () => {
    const proxy = await startWithFault(overWan(), '--verify');
    await proxy.until(isHeld);
    const file = await open(path('b.img'), 'r+');
    await file.write(content, WRONG * BLOCK, BLOCK, WRONG * BLOCK);
    await file.close();
    assert.equal((await verify(proxy)).state, 'passed');
    await proxy.until(isLetGo);
    assert.equal((await proxy.status()).error, null);
  });

  it('a difference that was found by hand holds it, too', async () => {
    const proxy = await startWithFault();
    assertFault(await verify(proxy));
    const status = await proxy.until(({ presentBytes }) => presentBytes === SIZE);
    assert.equal(status.state, 'relocating');
    // Everything was not here when the comparison began, but a difference is a difference.
    await sleep(300);
    assert.equal((await origin.status()).state, 'fenced');
    await proxy.call('accept');
    await proxy.until(isLetGo);
  });

  it('writes during the comparison are no fault', async () => {
    const proxy = await startWithFault(overWan(), '--verify');
    await proxy.until(isHeld);
    for (let run = 0; run < RUNS; run++) {
      // Each time it is another part that is written for the first time.
      const part = Math.floor((SIZE - MIB) / RUNS);
      const stop = await load(await connect(proxy), run, MIB + run * part, MIB + (run + 1) * part);
      const result = await verify(proxy);
      await stop();
      assertFault(result);
      assert.equal(result.comparedBytes + result.writtenBytes + BLOCK, SIZE, JSON.stringify(result));
    }
  });

  it('after kill -9 in the middle of writes nothing of them is a fault', async () => {
    let proxy = await startWithFault(overWan(), '--verify');
    for (let run = 0; run < RUNS; run++) {
      const stop = await load(await connect(proxy), 1000 + run);
      await sleep(20 + run * 15);
      await proxy.end('SIGKILL');
      await stop();
      proxy = await startProxy('--verify');
      const { state, different, doubtfulBytes } = await verify(proxy);
      assert.equal(doubtfulBytes, 0);
      assert.equal(state, 'differs');
      assert.deepEqual(different, [{ offset: WRONG * BLOCK, length: BLOCK }]);
    }
    await proxy.until(isHeld);
  });

  it('after a loss of power a difference that a write may have made is told, and holds nothing', async () => {
    let proxy = await startWithFault(overWan(), '--verify');
    await proxy.until(isHeld);
    // What is not flushed may be lost, and then it is fetched again.
    await (await connect(proxy)).flush();
    await proxy.end('SIGKILL');
    for (const name of ['present.live', 'written.live']) await ofAnotherBoot(path(`b.img.xnbd/${name}`));
    proxy = await startProxy('--verify');
    await proxy.until(isLetGo);
    const { verification } = await proxy.status();
    assert.equal(verification?.state, 'passed');
    assert.deepEqual(verification.doubtful, [{ offset: WRONG * BLOCK, length: BLOCK }]);
    assert.equal(verification.comparedBytes, SIZE - BLOCK);
    assert.match(
      proxy.log(),
      /warning: disk: differs .* a write before a loss of power may be the cause: 4096 bytes \(4096 at offset 28672\)/,
    );
  });

  it('waits for an origin that is away, and goes on', async () => {
    const proxy = await startWithFault(overWan(), '--verify');
    await proxy.until(isHeld);
    await wan.cut();
    await proxy.until((status) => !status.originReachable);
    await proxy.call('verify');
    await sleep(300);
    const { verification } = await proxy.status();
    assert.equal(verification?.state, 'running');
    await wan.resume();
    assertFault((await proxy.until(isOver, 30_000)).verification!);
    // And one that stops in the middle can be stopped.
    await wan.stall();
    await proxy.call('verify');
    assert.equal(await proxy.end('SIGTERM'), 0);
  });

  it('with an origin of ours that does not know HASH yet: by data', async () => {
    const relay = await startForgetfulRelay(wan.port);
    clean.push(() => relay.close());
    const proxy = await startWithFault(`nbd://127.0.0.1:${relay.port}/disk`, '--verify');
    const { verification } = await proxy.until(isHeld);
    assertFault(verification!);
    assert.equal(verification!.by, 'data');
    assert.ok(relay.replaced > 0);
  });

  it('with a plain NBD server: by data', async function () {
    if (!installed('nbdkit')) this.skip();
    const server = await startNbdkit(directory.path, ['--filter=rate', 'file', path('a.img'), 'rate=20M']);
    clean.push(() => server.stop());
    const proxy = await startWithFault(server.uri, '--verify');
    const { verification } = await proxy.until(isHeld, 30_000);
    assertFault(verification!);
    assert.equal(verification!.by, 'data');
    await proxy.call('accept');
    await proxy.until(isLetGo);
  });

  it('holes are not read: a sparse disk of 64 GiB is compared at once', async () => {
    await writeFile(path('a2.img'), '');
    await truncate(path('a2.img'), 64 * 1024 * MIB);
    const file = await open(path('a2.img'), 'r+');
    await file.write(content, 0, MIB, 10 * 1024 * MIB);
    await file.close();
    const sparse = await start('target', 'a2', ['--image', path('a2.img')]);
    const proxy = await startProxyOf(sparse.uri, '--verify', '--takeover', 'now');
    await proxy.until(isLetGo, 30_000);
    const { verification, sizeBytes } = await proxy.status();
    assert.equal(verification?.state, 'passed');
    assert.equal(verification.comparedBytes, sizeBytes);
  });
});

function xnbdctl(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const program = new URL('../../../src/bin/xnbdctl.ts', import.meta.url).pathname;
  return new Promise((resolve) => {
    execFile(process.execPath, [program, ...args], (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** The file as a restart of the host leaves it, at best. */
async function ofAnotherBoot(file: string): Promise<void> {
  const bytes = await readFile(file);
  const fields = JSON.parse(bytes.toString('utf8', 0, bytes.indexOf('\n'))) as object;
  bytes.fill(0, 0, 4096);
  bytes.write(`${JSON.stringify({ ...fields, cache: { boot: 'another' } })}\n`);
  await writeFile(file, bytes);
}
