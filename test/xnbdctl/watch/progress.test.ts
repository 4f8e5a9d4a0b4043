import assert from 'node:assert/strict';
import { type ExportStatus, emptyStatus } from '../../../src/control/status.ts';
import { progressLine } from '../../../src/xnbdctl/watch/progress.ts';

const MIB = 1024 * 1024;

const status: ExportStatus = {
  ...emptyStatus,
  name: 'vm1-vda',
  state: 'relocating',
  sizeBytes: 1000 * MIB,
  presentBytes: 100 * MIB,
  onDemandBytes: MIB,
  backgroundBytes: 99 * MIB,
  arrivalRate: 847_000_000,
  secondsLeft: 9,
};

describe('progress', () => {
  it('is told in one line, as the export says it', () => {
    assert.equal(
      progressLine({ ...status, originReachable: false }),
      'vm1-vda  relocating  10.0 %  847 Mbit/s  00:00:09 left  1.0 MiB on demand  99.0 MiB background  0 B skipped  origin unreachable',
    );
    assert.equal(
      progressLine({
        ...status,
        secondsLeft: null,
        arrivalRate: 0,
        copyPaused: 'an administrator has paused it',
      }),
      'vm1-vda  relocating  10.0 %  0 bit/s  unknown left  1.0 MiB on demand  99.0 MiB background  0 B skipped  paused',
    );
    assert.equal(
      progressLine({
        ...status,
        state: 'serving',
        presentBytes: 1000 * MIB,
        secondsLeft: null,
        arrivalRate: 0,
      }),
      'vm1-vda  serving  100 %  1.0 MiB on demand  99.0 MiB background  0 B skipped',
    );
  });
});
