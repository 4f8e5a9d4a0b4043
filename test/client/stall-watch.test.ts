/**
 * An origin that has fallen silent is found out; one that is slow, or a process that slept, raises no alarm.
 */
import assert from 'node:assert/strict';
import sinon from 'sinon';
import { StallWatch } from '../../src/client/stall-watch.ts';

describe('the stall watch', () => {
  let clock: sinon.SinonFakeTimers;
  let waiting: boolean;
  let probes: number;
  let stalled: number | null;
  let watch: StallWatch;

  beforeEach(() => {
    clock = sinon.useFakeTimers();
    waiting = true;
    probes = 0;
    stalled = null;
  });

  afterEach(() => {
    watch.stop();
    clock.restore();
  });

  function start(patience = 1): void {
    watch = new StallWatch({
      patience,
      waiting: () => waiting,
      probe: () => {
        probes += 1;
      },
      stalled: (seconds) => {
        stalled = seconds;
      },
    });
  }

  it('probes after 5 s of silence, and gives up 5 s later, once', () => {
    start();
    clock.tick(4900);
    assert.equal(probes, 0);
    clock.tick(200);
    assert.deepEqual([probes, stalled], [1, null]);
    clock.tick(4800);
    assert.deepEqual([probes, stalled], [1, null]);
    clock.tick(200);
    assert.deepEqual([probes, stalled], [1, 10]);
    clock.tick(60_000);
    assert.deepEqual([probes, stalled], [1, 10]);
  });

  it('leaves a slow line alone: each byte counts', () => {
    start();
    for (let at = 0; at < 100; at++) {
      clock.tick(4000);
      watch.heard();
    }
    assert.deepEqual([probes, stalled], [0, null]);
  });

  it('leaves a server alone whose disk is slow, as long as it answers the probes', () => {
    start();
    for (let at = 0; at < 20; at++) {
      const before = probes;
      clock.tick(5000);
      assert.equal(probes, before + 1);
      clock.tick(2000);
      watch.heard();
    }
    assert.equal(stalled, null);
  });

  it('waits longer for a server that has shown to be slow with everything', () => {
    start(4);
    clock.tick(24_900);
    assert.equal(stalled, null);
    clock.tick(200);
    assert.equal(stalled, 25);
  });

  it('probes seldom while nothing is asked', () => {
    waiting = false;
    start();
    clock.tick(14_900);
    assert.equal(probes, 0);
    clock.tick(200);
    assert.equal(probes, 1);
  });

  it('raises no alarm when the process slept for an hour: it looks before it judges', () => {
    start();
    clock.tick(6000);
    assert.equal(probes, 1);
    // The clock jumps, the timer does not: it fires once afterwards, as after SIGCONT.
    clock.setSystemTime(Date.now() + 3_600_000);
    clock.tick(1000);
    assert.equal(stalled, null);
  });
});
