import assert from 'node:assert/strict';
import { type ExportStatus, emptyStatus } from '../../../src/control/status.ts';
import { ProgressMeter, progressLine } from '../../../src/xnbdctl/watch/progress.ts';

const MIB = 1024 * 1024;

const status = (presentBytes: number, changes: Partial<ExportStatus> = {}): ExportStatus => ({
  ...emptyStatus,
  name: 'vm1-vda',
  state: 'relocating',
  sizeBytes: 1000 * MIB,
  presentBytes,
  backgroundBytes: presentBytes,
  ...changes,
});

describe('progress', () => {
  it('tells rate and time left from the last seconds, not from the beginning', () => {
    let now = 0;
    const meter = new ProgressMeter(() => now);
    assert.deepEqual([meter.add(status(0)).rate, meter.add(status(0)).secondsLeft], [0, null]);
    for (let second = 1; second <= 20; second++) {
      now = second * 1000;
      meter.add(status(second * MIB));
    }
    let last = meter.add(status(20 * MIB));
    assert.equal(Math.round(last.rate / MIB), 1);
    assert.equal(Math.round(last.secondsLeft!), 980);
    for (let second = 21; second <= 26; second++) {
      now = second * 1000;
      last = meter.add(status((20 + (second - 20) * 10) * MIB));
    }
    assert.equal(last.rate, 10 * MIB);
    assert.equal(Math.round(last.secondsLeft!), 92);
  });

  it('knows no end while nothing comes, and none is left when all is there', () => {
    let now = 0;
    const meter = new ProgressMeter(() => now);
    meter.add(status(5 * MIB));
    now = 1000;
    assert.equal(meter.add(status(5 * MIB)).secondsLeft, null);
    now = 2000;
    assert.equal(meter.add(status(1000 * MIB)).secondsLeft, 0);
  });

  it('takes holes neither for the rate of the link nor for the pace of the rest', () => {
    let now = 0;
    const meter = new ProgressMeter(() => now);
    meter.add(status(0));
    now = 1000;
    const { rate, secondsLeft } = meter.add(
      status(500 * MIB, { backgroundBytes: 10 * MIB, skippedBytes: 490 * MIB }),
    );
    assert.equal(rate, 10 * MIB);
    assert.equal(secondsLeft, 50);
  });

  it('puts it all in one line', () => {
    let now = 0;
    const meter = new ProgressMeter(() => now);
    meter.add(status(0));
    now = 1000;
    assert.equal(
      progressLine(meter.add(status(100 * MIB, { onDemandBytes: MIB, originReachable: false }))),
      'vm1-vda  relocating  10.0 %  101 MiB/s  ETA 9 s  1.0 MiB on demand  100 MiB background  0 B skipped  origin unreachable',
    );
  });
});
