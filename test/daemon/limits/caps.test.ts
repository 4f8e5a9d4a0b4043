/**
 * Caps over all disks of a host, with real daemons and exports. What is measured is bytes over several
 * seconds against bytes that were allowed: a loaded machine may be late, but never exceeds.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { configureLog } from '../../../src/log/log.ts';
import { MIB } from '../../lab/host/test-host.ts';
import { TwoHosts } from '../../lab/host/two-hosts.ts';
import { waitFor } from '../../lab/wait-for.ts';

const MBIT = 1e6 / 8;
const XNBDCTL = new URL('../../../src/bin/xnbdctl.ts', import.meta.url).pathname;
const [VDA, VDB, VDC] = ['vm1-vda', 'vm1-vdb', 'vm1-vdc'] as const;

describe('limits of a host', function () {
  this.timeout(180_000);
  let two: TwoHosts;
  beforeEach(() => configureLog({ level: 'error' }));
  afterEach(async () => {
    await two.remove();
    configureLog({ level: 'info' });
  });

  /** B's xnbdctl. */
  function xnbdctl(...args: string[]): Promise<string> {
    return new Promise((resolve, reject) => {
      execFile(process.execPath, [XNBDCTL, '--config', two.b.config, ...args], (error, stdout, stderr) =>
        error === null ? resolve(stdout) : reject(new Error(stderr)),
      );
    });
  }

  /** Three disks of which `fullMib` MiB each have to come, taken over at B. */
  async function relocating(config: string, fullMib: number): Promise<void> {
    two = await TwoHosts.make({ config, disks: [VDA, VDB, VDC], fullMib });
    await two.arrive();
    await two.leave();
    await two.become(two.b, 'relocating');
  }

  /** Bytes that have come to B, of each disk. */
  async function come(): Promise<Record<string, number>> {
    const each = await Promise.all(two.vm.disks.map((name) => two.b.status(name)));
    return Object.fromEntries(
      each.map((status) => [status.name, status.onDemandBytes + status.backgroundBytes]),
    );
  }

  /** Mbit/s of each disk, and of all, over some seconds. */
  async function measured(seconds: number): Promise<Record<string, number>> {
    const began = performance.now();
    const before = await come();
    await sleep(seconds * 1000);
    const after = await come();
    const elapsed = (performance.now() - began) / 1000;
    const rates = two.vm.disks.map(
      (name) => [name, (after[name]! - before[name]!) / MBIT / elapsed] as const,
    );
    return { ...Object.fromEntries(rates), all: rates.reduce((sum, [, rate]) => sum + rate, 0) };
  }

  /** All together keep to the cap within 5 %; more than a tenth less is a machine that is busy. */
  async function assertHolds(cap: number, seconds = 3): Promise<void> {
    const { all } = await measured(seconds);
    assert.ok(all! <= cap * 1.05 && all! >= cap * 0.85, `${all} of ${cap} Mbit/s`);
  }

  it('hold for all disks together, change within a second, and survive the death of the daemon', async () => {
    await relocating('[relocation]\nrate = 30M\n', 24);
    await sleep(1000);
    await assertHolds(30);
    assert.match(await xnbdctl('limit', '12M'), /^this host: 12M \(xnbdctl limit\)\n$/);
    await sleep(1000);
    await assertHolds(12);
    await two.b.stop('SIGKILL');
    await assertHolds(12);
    assert.match(await xnbdctl('limit', '20M'), /kept, and in force as soon as xnbdd runs/);
    await assertHolds(12, 1);
    await two.b.startDaemon();
    await sleep(1000);
    await assertHolds(20);
    assert.match(await xnbdctl('status'), /\n\nthis host: 20M \(xnbdctl limit\)\n$/);
    await xnbdctl('limit', 'none');
    await two.become(two.b, 'serving');
  });

  it('are shared by weight; what a paused disk leaves the others get, and each restart keeps it all', async () => {
    await relocating('[relocation]\nrate = 24M\n', 24);
    await xnbdctl('weight', VDA, '200');
    await sleep(1500);
    const weighed = await measured(3);
    const ratio = weighed[VDA]! / ((weighed[VDB]! + weighed[VDC]!) / 2);
    assert.ok(ratio > 1.6 && ratio < 2.4, JSON.stringify(weighed));
    assert.match(await xnbdctl('pause', VDA), /vm1-vda: paused = on/);
    await sleep(1000);
    await assertHolds(24, 2);
    // The export dies, and is started again by the daemon: paused as it was, and no faster for a moment.
    for (const name of [VDA, VDB]) {
      const { pid } = await two.b.status(name);
      process.kill(pid, 'SIGKILL');
      await waitFor(`${name} is back`, async () => (await two.b.state(name)) === 'relocating');
    }
    const before = await two.b.status(VDA);
    const { all } = await measured(3);
    assert.ok(all! <= 24 * 1.05, `${all} of 24 Mbit/s`);
    const after = await two.b.status(VDA);
    assert.deepEqual([after.backgroundBytes, after.settings['weight']], [before.backgroundBytes, '200']);
    assert.match(after.copyPaused!, /^an administrator has paused it/);
    assert.match(await xnbdctl('resume', VDA), /vm1-vda: paused = off/);
    await xnbdctl('limit', 'none');
    await two.become(two.b, 'serving');
  });

  it('of a peer hold too; all pause at a word, those that arrive later with them', async () => {
    await relocating('[relocation]\nrate = 4M\n', 16);
    const peer = new URL((await two.b.status(VDA)).origin!).hostname;
    assert.match(await xnbdctl('pause', '--all'), /^all disks of this host: paused/);
    await waitFor('all are told', async () =>
      (await Promise.all(two.vm.disks.map((name) => two.b.status(name)))).every(({ copyPaused }) =>
        /paused all disks/.test(copyPaused ?? ''),
      ),
    );
    await assert.rejects(
      xnbdctl('limit', 'nowhere', '8M'),
      /nowhere is neither a disk of this host nor a peer/,
    );
    await xnbdctl('limit', 'none');
    assert.match(await xnbdctl('limit', peer, '8M'), /^what comes from 127\.0\.0\.1: 8M/);
    assert.equal((await measured(1)).all, 0);
    await xnbdctl('resume', '--all');
    await sleep(1000);
    await assertHolds(8);
    await xnbdctl('limit', peer, 'default');
    await two.become(two.b, 'serving');
  });

  it('let so many disks be copied at a time as they say, the others in turn', async () => {
    await relocating('[relocation]\nrate = 40M\nmax-arriving = 1\n', 8);
    const seen = new Set<string>();
    let [samples, more] = [0, 0];
    await waitFor(
      'all are complete',
      async () => {
        const under = Object.entries(await come()).filter(([, bytes]) => bytes > 0 && bytes < 8 * MIB);
        for (const [name] of under) seen.add(name);
        samples += 1;
        // One may have ended, and the next begun, while they were asked.
        if (under.length > 1) more += 1;
        return (await two.states(two.b)).every((state) => state === 'serving');
      },
      60_000,
    );
    assert.ok(samples > 20 && more <= 2, `${more} of ${samples} times more than one was under way`);
    assert.deepEqual([...seen].sort(), [VDA, VDB, VDC]);
    assert.equal((await come())[VDC], 8 * MIB);
  });

  it('leave an export of an earlier release as it is, with one warning', async () => {
    const exportProgram = new URL('../../lab/host/another-releases-xnbd-export.ts', import.meta.url).pathname;
    const config = '[relocation]\ncopy-rate = 40M\n';
    two = await TwoHosts.make({ config, exportProgram, disks: [VDA, VDB], fullMib: 16 });
    await two.arrive();
    await xnbdctl('limit', '1M');
    await two.leave();
    await two.become(two.b, 'serving');
    for (const name of [VDA, VDB]) {
      const told = (await two.b.log()).split(`disk ${name}: its export is of a release that knows no shares`);
      assert.equal(told.length - 1, 1);
    }
  });

  it('are obeyed by the others when one export does not answer, and by all when it does again', async () => {
    await relocating('[relocation]\nrate = 24M\n', 24);
    await sleep(1500);
    const { pid } = await two.b.status(VDC);
    const held = (await two.b.status(VDC)).share!;
    process.kill(pid, 'SIGSTOP');
    try {
      await xnbdctl('limit', '12M');
      // What the third was told last may still be its own.
      await waitFor('the others have what is left', async () => {
        const shares = [(await two.b.status(VDA)).share!, (await two.b.status(VDB)).share!];
        return shares[0]! + shares[1]! + held <= 12e6;
      });
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await waitFor('all are told', async () => {
      const shares = await Promise.all(two.vm.disks.map(async (name) => (await two.b.status(name)).share!));
      const sum = shares.reduce((total, share) => total + share, 0);
      return sum > 11e6 && sum <= 12e6;
    });
    await assertHolds(12, 2);
    await xnbdctl('limit', 'none');
    await two.become(two.b, 'serving');
  });

  it('change with the clock, at the window of a schedule that begins', async () => {
    // The next minute that is not about to begin, and the one after it.
    const from = new Date(Date.now() + 75_000);
    const clock = (date: Date): string =>
      `${String(date.getHours()).padStart(2, '0')}:${String(date.getMinutes()).padStart(2, '0')}`;
    const to = new Date(from.getTime() + 120_000);
    await relocating(`[relocation]\nrate = 2M\nrate-schedule = ${clock(from)}-${clock(to)} 16M\n`, 24);
    await sleep(1000);
    await assertHolds(2, 4);
    const begins = new Date(from).setSeconds(0, 0);
    assert.ok(Date.now() < begins, 'it had begun before all was ready');
    await sleep(begins - Date.now() + 1000);
    await assertHolds(16);
    assert.match(await xnbdctl('limit'), /^this host: 16M \(rate-schedule, \d\d:\d\d-\d\d:\d\d 16M\)$/m);
  });
});
