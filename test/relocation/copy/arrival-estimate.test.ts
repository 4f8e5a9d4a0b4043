/** Rate, time left and alarms of a disk that comes, by a clock of the test's own. */
import assert from 'node:assert/strict';
import { ArrivalEstimate, type ArrivalSample } from '../../../src/relocation/copy/arrival-estimate.ts';

const MB = 1e6;

describe('the estimate of an arrival', () => {
  let now: number;
  let sample: ArrivalSample;
  let estimate: ArrivalEstimate;
  let alarms: string[];
  beforeEach(() => {
    now = 0;
    sample = {
      fetchedBytes: 0,
      presentBytes: 0,
      leftBytes: 1000 * MB,
      hindered: false,
      excused: false,
      cap: null,
    };
    estimate = new ArrivalEstimate();
    estimate.add(sample, now);
    alarms = [];
  });

  /** @param rate bytes a second */
  function run(seconds: number, rate: number, changes: Partial<ArrivalSample> = {}): void {
    for (let second = 0; second < seconds; second++) {
      now += 1000;
      const { fetchedBytes, presentBytes, leftBytes } = sample;
      sample = {
        ...sample,
        fetchedBytes: fetchedBytes + rate,
        presentBytes: presentBytes + rate,
        leftBytes: leftBytes === null ? null : Math.max(leftBytes - rate, 0),
        ...changes,
      };
      const before = estimate.alarm;
      estimate.add(sample, now);
      if (estimate.alarm !== null && estimate.alarm !== before) alarms.push(estimate.alarm);
    }
  }

  const near = (value: number | null, expected: number, part = 0.02): void =>
    assert.ok(value !== null && Math.abs(value - expected) <= expected * part, `${value}, not ${expected}`);

  it('is told after some seconds, and is right from then on', () => {
    run(4, 10 * MB);
    assert.equal(estimate.secondsLeft, null);
    near(estimate.rate, 80 * MB);
    run(1, 10 * MB);
    near(estimate.secondsLeft, 95);
    run(50, 10 * MB);
    near(estimate.secondsLeft, 45);
    run(45, 10 * MB);
    assert.deepEqual([estimate.secondsLeft, alarms], [0, []]);
  });

  it('does not jump when holes are skipped, nor with a line that comes in bursts', () => {
    run(20, 10 * MB);
    const before = estimate.secondsLeft!;
    run(1, 10 * MB, { presentBytes: sample.presentBytes + 100_000 * MB });
    near(estimate.secondsLeft, before - 1);
    let [least, most] = [Number.POSITIVE_INFINITY, 0];
    for (let burst = 0; burst < 10; burst++) {
      run(1, 30 * MB);
      run(2, 0);
      least = Math.min(least, estimate.secondsLeft! + burst * 3);
      most = Math.max(most, estimate.secondsLeft! + burst * 3);
    }
    assert.ok(most < least * 1.25, `from ${least} to ${most}`);
  });

  it('begins anew when a cap is another that binds, and only then', () => {
    run(20, 10 * MB);
    run(1, 10 * MB, { cap: 400 * MB });
    assert.notEqual(estimate.secondsLeft, null, 'a cap far above the rate');
    run(1, 10 * MB, { cap: 82 * MB });
    run(10, 10 * MB, { cap: 80 * MB });
    run(1, 10 * MB, { cap: 76 * MB });
    assert.notEqual(estimate.secondsLeft, null, 'a share that is dealt anew');
    run(1, MB, { cap: 8 * MB });
    assert.equal(estimate.secondsLeft, null);
    run(10, MB);
    near(estimate.secondsLeft, sample.leftBytes! / MB, 0.05);
    assert.deepEqual(alarms, [], 'people wanted it so');
  });

  it('is not known while it pauses, and not soon after', () => {
    run(20, 10 * MB);
    run(100, 0, { hindered: true, excused: true });
    assert.equal(estimate.secondsLeft, null);
    run(4, 10 * MB, { hindered: false, excused: false });
    assert.equal(estimate.secondsLeft, null);
    run(5, 10 * MB);
    near(estimate.secondsLeft, sample.leftBytes! / (10 * MB));
    assert.deepEqual(alarms, []);
  });

  it('is not known before it is known what there is', () => {
    run(20, 10 * MB, { leftBytes: null });
    assert.equal(estimate.secondsLeft, null);
  });

  it('raises one alarm when nothing comes for no known reason, until something does', () => {
    run(10, 10 * MB);
    run(29, 0);
    assert.equal(estimate.alarm, null);
    run(120, 0);
    assert.deepEqual(alarms, ['nothing has come for 30 s, and no reason is known']);
    run(1, 0, { presentBytes: sample.presentBytes + 4096 });
    assert.equal(estimate.alarm, null, 'a hole was skipped');
    run(60, 0, { excused: true });
    assert.equal(alarms.length, 1);
  });

  it('raises an alarm when the time left doubles, and again when it doubles again', () => {
    run(40, 10 * MB);
    assert.equal(alarms.length, 0);
    // 60 s are left; at a tenth of the rate it will be 600.
    run(60, MB);
    assert.equal(alarms.length, 2, alarms.join('\n'));
    assert.match(alarms[0]!, /^it will take 00:0\d:\d\d more, where 00:0\d:\d\d had been left$/);
    assert.equal(estimate.alarm, alarms[1]);
    run(60, 10 * MB);
    assert.equal(estimate.alarm, null);
  });

  it('raises none for the last seconds of a disk', () => {
    run(95, 10 * MB);
    run(20, MB / 10);
    assert.deepEqual(alarms, []);
  });
});
