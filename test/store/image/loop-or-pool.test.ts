import { strict as assert } from 'node:assert';
import { LoopOrPool } from '../../../src/store/image/loop-or-pool.ts';

describe('pace', () => {
  it('stays on the loop while calls are quick for their size', () => {
    const pace = new LoopOrPool();
    for (let now = 0; now < 100; now++) {
      assert.ok(pace.mayBlock(now));
      pace.measured(now, now + 0.1, 4096);
      pace.measured(now, now + 2, 1024 * 1024);
    }
  });

  it('one slow call sends the next to the pool, until a probe; each slow probe doubles the while', () => {
    const pace = new LoopOrPool();
    let now = 0;
    for (const wait of [10, 20, 40, 80, 160, 320, 640, 1000, 1000]) {
      assert.ok(pace.mayBlock(now));
      pace.measured(now, now + 5, 4096);
      now += 5;
      assert.ok(!pace.mayBlock(now + wait - 1));
      now += wait;
    }
    assert.ok(pace.mayBlock(now));
    pace.measured(now, now + 0.01, 4096);
    assert.ok(pace.mayBlock(now + 1), 'a quick probe switches back');
  });
});
