/** A cap on the rate at which a disk comes, by itself and as what is set of a disk. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectControl } from '../../../src/control/client.ts';
import { RateLimit } from '../../../src/relocation/copy/rate-limit.ts';
import { PathWindow } from '../../../src/relocation/path/path-window.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const MIB = 1024 * 1024;
/** Bytes a second. */
const MBIT = 1e6 / 8;

describe('a cap on the rate of the copy', () => {
  let now: number;
  /** Bytes that clients have asked for. */
  let demanded: number;
  let pace: RateLimit;
  beforeEach(() => {
    now = 0;
    demanded = 0;
    pace = new RateLimit(
      new PathWindow({ probed: false }),
      () => demanded,
      () => now,
    );
  });

  /** Sends what may be sent, each chunk answered at once. @returns bytes */
  function play(ms: number): number {
    let sent = 0;
    for (const end = now + ms; now < end; now += 1) {
      while (pace.open) {
        const bytes = pace.chunk;
        pace.sent(bytes);
        pace.answered(bytes, 1, now + 1);
        sent += bytes;
        if (sent > 1000 * MIB) return sent;
      }
    }
    return sent;
  }

  for (const rate of [0.1, 1, 8, 100, 400])
    it(`lets ${rate} Mbit/s through, and little more after a rest`, () => {
      pace.limit(rate * 1e6);
      // Whatever the copy without a cap has learned of the path.
      play(1000);
      for (let second = 0; second < 10; second++) {
        const sent = play(1000);
        const allowed = rate * MBIT;
        assert.ok(Math.abs(sent - allowed) <= allowed * 0.05 + 4096, `${sent} of ${allowed}`);
      }
      now += 60_000;
      assert.ok(play(1) <= rate * MBIT * 0.05 + 2 * pace.chunk, 'a flood after a rest');
    });

  it('counts what clients ask for, which it does not hold back, for a second at most', () => {
    pace.limit(8e6);
    play(1000);
    for (let second = 0; second < 3; second++) {
      let sent = 0;
      for (let tenth = 0; tenth < 10; tenth++) {
        demanded += 50_000;
        sent += play(100);
      }
      assert.ok(Math.abs(sent - 500_000) < 60_000, `${sent} beside 500000 of 1000000 a second`);
    }
    demanded += 100e6;
    assert.equal(play(900), 0);
    assert.ok(play(200) > 0, 'a second later the copy goes on');
  });

  it('may be dealt out anew every moment, and lets no more out for that', () => {
    let sent = 0;
    for (let turn = 0; turn < 2000; turn++) {
      pace.limit(turn % 2 === 0 ? 8e6 : 8.1e6);
      sent += play(5);
    }
    assert.ok(sent <= 10.2e6, `${sent} in 10 s`);
  });

  it('of 0 lets nothing out, and tells what it holds back', () => {
    pace.limit(0);
    assert.deepEqual([play(10_000), pace.held, pace.reopensAt], [0, true, null]);
    pace.limit(8e6);
    assert.ok(play(1000) > 900_000);
    assert.equal(pace.held, true, 'the cap is what limits it');
    pace.limit(null);
    play(10);
    assert.equal(pace.held, false);
  });

  it('tells when it opens again, and opens then', () => {
    pace.limit(1e6);
    pace.sent(pace.chunk);
    assert.equal(pace.open, false);
    const opens = pace.reopensAt!;
    now = opens - 1;
    assert.equal(pace.open, false);
    // Found closed just before it opened: it is told that it opens, or nobody would look again.
    now = opens + 1;
    assert.equal(pace.reopensAt, now);
    assert.equal(pace.open, true);
  });

  it('is none unless there is one, and can be lifted', () => {
    assert.ok(play(100) > 1000 * MIB);
    pace.limit(1e6);
    assert.ok(play(1000) < MIB);
    pace.limit(null);
    assert.ok(play(100) > 1000 * MIB);
  });
});

describe('what is set of a disk', function () {
  this.timeout(60_000);
  const SIZE = 16 * MIB;
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  const started: ExportProcess[] = [];
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(async () => {
    for (const each of started.splice(0).reverse()) await each.end('SIGKILL');
    await directory.remove();
  });

  async function set(of: ExportProcess, key: string, value: string): Promise<void> {
    const client = await connectControl(`${of.socket}.ctl`);
    assert.equal(await client.call('set', undefined, { key, value }), value);
    client.close();
  }

  it('holds the copy back, not the guest, until it is lifted', async () => {
    const path = (name: string): string => join(directory.path, name);
    const content = bytesOf(3, SIZE);
    await writeFile(path('a.img'), content);
    const origin = await startExport('target', 'disk', path('a'), ['--image', path('a.img')]);
    started.push(origin);
    const proxy = await startExport('proxy', 'disk', path('b'), [
      ...['--image', path('b.img'), '--origin', origin.uri, '--takeover', 'now'],
      ...['--set', 'copy-rate=2M', '--set', 'follow=off'],
    ]);
    started.push(proxy);
    await proxy.until(({ backgroundBytes }) => backgroundBytes > MIB / 8);
    const guest = await connectClient(proxy.uri);
    for (let offset = SIZE / 2; offset < SIZE; offset += MIB)
      assertSameBytes(await guest.read(offset, MIB), content.subarray(offset, offset + MIB));
    guest.disconnect();
    const held = await proxy.status();
    assert.equal(held.settings['copy-rate'], '2M');
    assert.equal(held.onDemandBytes, SIZE / 2, 'the guest was faster than the copy');
    // What it may have sent before, and half a second for a machine that is busy.
    const allowed = 2 * MBIT * (held.secondsSinceTakeover + 0.5) + MIB / 8;
    assert.ok(held.backgroundBytes <= allowed, `${held.backgroundBytes} of ${allowed}`);

    assert.equal(held.copyHeld, true);
    await set(proxy, 'copy-rate', 'none');
    const done = await proxy.until(({ state, origin: left }) => state === 'serving' && left === null);
    assert.equal(done.onDemandBytes + done.backgroundBytes, SIZE);
  });

  it('pauses the copy alone, over kill -9 as well, until it is resumed', async () => {
    const path = (name: string): string => join(directory.path, name);
    const content = bytesOf(4, SIZE);
    await writeFile(path('a.img'), content);
    const origin = await startExport('target', 'disk', path('a'), ['--image', path('a.img')]);
    started.push(origin);
    const args = ['--image', path('b.img'), '--origin', origin.uri, '--takeover', 'now'];
    let proxy = await startExport('proxy', 'disk', path('b'), [...args, '--set', 'copy-rate=20M']);
    started.push(proxy);
    await proxy.until(({ backgroundBytes }) => backgroundBytes > 0);
    await set(proxy, 'paused', 'on');
    await proxy.end('SIGKILL');
    proxy = await startExport('proxy', 'disk', path('b'), args);
    started.push(proxy);
    const before = await proxy.until(({ state }) => state === 'relocating');
    assert.match(before.copyPaused!, /^an administrator has paused it/);
    const guest = await connectClient(proxy.uri);
    assertSameBytes(await guest.read(SIZE - MIB, MIB), content.subarray(SIZE - MIB));
    guest.disconnect();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const after = await proxy.status();
    assert.deepEqual(
      [after.backgroundBytes, after.onDemandBytes - before.onDemandBytes],
      [before.backgroundBytes, MIB],
    );
    await set(proxy, 'paused', 'off');
    await proxy.until(({ state, origin: left }) => state === 'serving' && left === null);
  });

  it('waits for the share that the daemon tells, where it is told to, and keeps to the last one', async () => {
    const path = (name: string): string => join(directory.path, name);
    await writeFile(path('a.img'), bytesOf(5, SIZE));
    const origin = await startExport('target', 'disk', path('a'), ['--image', path('a.img')]);
    started.push(origin);
    const args = ['--image', path('b.img'), '--origin', origin.uri, '--takeover', 'now', '--await-share'];
    const proxy = await startExport('proxy', 'disk', path('b'), args);
    started.push(proxy);
    const waiting = await proxy.until(({ copyHeld }) => copyHeld);
    assert.match(waiting.copyPaused!, /^it waits for its share/);
    assert.deepEqual([waiting.share, waiting.backgroundBytes], [0, 0]);
    const client = await connectControl(`${proxy.socket}.ctl`);
    await client.call('share', undefined, { rate: 0, why: 'it is the third in the queue' });
    assert.equal((await client.status()).copyPaused, 'it is the third in the queue');
    for (const share of [{}, { rate: '1' }, { rate: -1 }, { rate: 1, why: 1 }])
      await assert.rejects(client.call('share', undefined, share), /a share has "rate"/);
    await client.call('share', undefined, { rate: 8e6 });
    client.close();
    const some = await proxy.until(({ backgroundBytes }) => backgroundBytes > 0);
    assert.deepEqual([some.share, some.copyPaused], [8e6, null]);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    const later = await proxy.status();
    const allowed = MBIT * 8 * (later.secondsSinceTakeover + 0.5);
    assert.ok(later.backgroundBytes > some.backgroundBytes && later.backgroundBytes <= allowed);
    // A process that replaces it has no other share, and does not wait for one.
    await proxy.restart();
    const replaced = await proxy.status();
    assert.deepEqual([replaced.share, replaced.copyPaused], [8e6, null]);
    // Its successor is no child of this process.
    await proxy.call('stop');
  });
});
