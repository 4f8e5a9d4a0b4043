import assert from 'node:assert/strict';
import sinon from 'sinon';
import { SpareSlabs } from '../../../../src/export/session/replies/slabs.ts';

describe('spare slabs', () => {
  let clock: sinon.SinonFakeTimers;
  beforeEach(() => (clock = sinon.useFakeTimers()));
  afterEach(() => clock.restore());

  it('are used again, the last one first', () => {
    const spare = new SpareSlabs();
    const [one, other] = [spare.take(), spare.take()];
    assert.notEqual(one, other);
    spare.add(one);
    spare.add(other);
    assert.equal(spare.take(), other);
    assert.equal(spare.take(), one);
  });

  it('stay as long as they are needed now and then, and no longer', () => {
    const spare = new SpareSlabs();
    const [one, other] = [spare.take(), spare.take()];
    spare.add(other);
    spare.add(one);
    for (let second = 0; second < 5; second++) {
      assert.equal(spare.take(), one);
      spare.add(one);
      clock.tick(1000);
    }
    assert.equal(spare.length, 1, 'the other has not been needed');
    clock.tick(2000);
    assert.equal(spare.length, 0);
    assert.equal(clock.countTimers(), 0, 'nothing ticks in an idle export');
  });

  it('are not more than a bounded number', () => {
    const spare = new SpareSlabs();
    const slab = spare.take();
    for (let count = 0; count < 1000; count++) spare.add(slab);
    assert.ok(spare.length <= 64);
  });
});
