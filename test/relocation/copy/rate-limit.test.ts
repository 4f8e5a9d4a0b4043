/** A cap on the background copy, by itself and as the setting copy-rate of a disk. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectControl } from '../../../src/control/client.ts';
import { BackgroundWindow } from '../../../src/relocation/copy/background-window.ts';
import { RateLimit } from '../../../src/relocation/copy/rate-limit.ts';
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
  let pace: RateLimit;
  beforeEach(() => {
    now = 0;
    pace = new RateLimit(new BackgroundWindow(), () => now);
  });

  /** Sends what may be sent, each chunk answered after 1 ms. @returns bytes */
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

  for (const rate of [1, 8, 100, 400])
    it(`lets ${rate} Mbit/s through, and little more after a rest`, () => {
      pace.limit(rate);
      const sent = play(10_000);
      const allowed = rate * MBIT * 10;
      assert.ok(sent <= allowed + pace.chunk, `${sent} of ${allowed}`);
      assert.ok(sent >= allowed * 0.95 - pace.chunk, `${sent} of ${allowed}`);
      now += 60_000;
      assert.ok(play(1) <= rate * MBIT * 0.1 + 2 * pace.chunk, 'a flood after a rest');
    });

  it('tells when it opens again, and opens then', () => {
    pace.limit(1);
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
    pace.limit(1);
    assert.ok(play(1000) < MIB);
    pace.limit(null);
    assert.ok(play(100) > 1000 * MIB);
  });
});

describe('copy-rate of a disk', function () {
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

  it('holds the copy back, not the guest, until it is lifted', async () => {
    const path = (name: string): string => join(directory.path, name);
    const content = bytesOf(3, SIZE);
    await writeFile(path('a.img'), content);
    const origin = await startExport('target', 'disk', path('a'), ['--image', path('a.img')]);
    started.push(origin);
    const proxy = await startExport('proxy', 'disk', path('b'), [
      ...['--image', path('b.img'), '--origin', origin.uri, '--takeover', 'now'],
      ...['--set', 'copy-rate=2'],
    ]);
    started.push(proxy);
    await proxy.until(({ backgroundBytes }) => backgroundBytes > MIB / 8);
    const guest = await connectClient(proxy.uri);
    for (let offset = SIZE / 2; offset < SIZE; offset += MIB)
      assertSameBytes(await guest.read(offset, MIB), content.subarray(offset, offset + MIB));
    guest.disconnect();
    const held = await proxy.status();
    assert.equal(held.settings['copy-rate'], '2');
    assert.equal(held.onDemandBytes, SIZE / 2, 'the guest was faster than the copy');
    // What it may have sent before, and half a second for a machine that is busy.
    const allowed = 2 * MBIT * (held.secondsSinceTakeover + 0.5) + MIB / 8;
    assert.ok(held.backgroundBytes <= allowed, `${held.backgroundBytes} of ${allowed}`);

    const client = await connectControl(`${proxy.socket}.ctl`);
    assert.equal(await client.call('set', undefined, { key: 'copy-rate', value: 'none' }), 'none');
    client.close();
    const done = await proxy.until(({ state, origin: left }) => state === 'serving' && left === null);
    assert.equal(done.onDemandBytes + done.backgroundBytes, SIZE);
  });
});
