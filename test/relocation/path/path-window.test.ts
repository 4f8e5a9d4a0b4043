/** The window of the background copy, on a modelled path with a clock of its own (test/lab/model/path-model.ts). */
import assert from 'node:assert/strict';
import { MOST_IN_FLIGHT, PathWindow } from '../../../src/relocation/path/path-window.ts';
import { PathBoard, PathModel, type Traveller } from '../../lab/model/path-model.ts';
import { Random } from '../../lab/model/random.ts';

/** Bytes a ms. */
const mbit = (rate: number): number => rate * 125;

/** So many disks begin on a path. */
function begin(path: PathModel, count: number, weight: (at: number) => number = () => 1): Traveller[] {
  const board = new PathBoard();
  return Array.from({ length: count }, (_, at) =>
    path.begin(new PathWindow({ probed: true, exchange: board.exchange(`${at}`), weight: () => weight(at) })),
  );
}

/** Lets the clock run. @returns what each disk got of the line meanwhile */
function shares(path: PathModel, disks: readonly Traveller[], ms: number): number[] {
  const before = disks.map(({ got }) => got);
  path.run(ms);
  return disks.map(({ got }, at) => (got - before[at]!) / (path.rate * ms));
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

describe('the window of the background copy', () => {
  for (const rtt of [10, 50, 200]) {
    for (const rate of [1, 20, 100, 1000]) {
      it(`fills a line of ${rate} Mbit/s and ${rtt} ms, with little to wait for`, () => {
        const path = new PathModel(mbit(rate), rtt);
        const disks = begin(path, 1);
        path.run(5000);
        path.longestQueue();
        const used = sum(shares(path, disks, 5000));
        assert.ok(used > 0.93, `${used} of the line`);
        // A few chunks of 16 KiB on a slow line, some milliseconds on a fast one.
        const most = (6 * 16 * 1024) / path.rate + 20 + rtt / 4;
        const longest = path.longestQueue();
        assert.ok(longest < most, `${longest} ms of queue, not ${most}`);
      });
    }
  }

  it('begins without a queue of more than a round trip and what it begins with', () => {
    for (const rtt of [10, 50, 100, 200]) {
      for (const rate of [20, 100, 1000]) {
        const path = new PathModel(mbit(rate), rtt);
        begin(path, 1);
        path.run(3000);
        const most = rtt + (64 * 1024) / path.rate;
        const longest = path.longestQueue();
        assert.ok(longest <= most, `${rtt} ms, ${rate} Mbit/s: ${longest} ms of queue`);
      }
    }
  });

  it('finds the rate of a fast line within seconds', () => {
    const path = new PathModel(mbit(25_000), 50);
    const disks = begin(path, 1);
    path.run(2000);
    assert.ok(sum(shares(path, disks, 1000)) > 0.95);
  });

  it('follows a rate that falls to a tenth and comes back', () => {
    const path = new PathModel(mbit(100), 50);
    const disks = begin(path, 1);
    path.run(5000);
    path.rate = mbit(10);
    path.run(5000);
    path.longestQueue();
    assert.ok(sum(shares(path, disks, 5000)) > 0.9);
    const longest = path.longestQueue();
    assert.ok(longest < 120, `${longest} ms of queue, five seconds after the rate has fallen`);
    path.rate = mbit(100);
    path.run(5000);
    assert.ok(sum(shares(path, disks, 5000)) > 0.9);
  });

  it('believes a route that has become longer, or shorter', () => {
    const path = new PathModel(mbit(100), 20);
    const disks = begin(path, 2);
    path.run(5000);
    path.rtt = 80;
    path.run(30_000);
    assert.ok(sum(shares(path, disks, 5000)) > 0.9, 'longer');
    path.rtt = 10;
    path.run(5000);
    path.longestQueue();
    assert.ok(sum(shares(path, disks, 5000)) > 0.9, 'shorter');
    assert.ok(path.longestQueue() < 30, 'shorter: no queue is left of the longer one');
  });

  it('does not take the jitter of a busy machine for a queue', () => {
    const path = new PathModel(mbit(100), 50);
    const random = new Random(7);
    path.jitter = () => (random.below(4) === 0 ? random.below(40) : random.below(3));
    const disks = begin(path, 1);
    path.run(5000);
    const used = sum(shares(path, disks, 10_000));
    assert.ok(used > 0.85, `${used} of the line`);
  });

  it('does not grow while something else holds the copy back', () => {
    const window = new PathWindow({ probed: true });
    for (let now = 0; now < 20_000; now += 10) {
      window.sent(4096);
      window.answered(4096, 10, now);
      window.probed(10, now);
    }
    assert.ok(window.limit <= 64 * 1024, `${window.limit} bytes`);
  });

  it('has bounded memory, whatever the line', () => {
    const path = new PathModel(mbit(100_000), 300);
    const [disk] = begin(path, 1);
    path.run(6000);
    assert.ok(disk!.window.limit <= MOST_IN_FLIGHT);
    assert.ok(disk!.window.inFlight <= MOST_IN_FLIGHT + 1024 * 1024);
  });

  it('without probes is steered by its answers', () => {
    const path = new PathModel(mbit(100), 50);
    const disk = path.begin(new PathWindow({ probed: false }), { probes: false });
    path.run(5000);
    path.longestQueue();
    assert.ok(sum(shares(path, [disk], 5000)) > 0.9);
    assert.ok(path.longestQueue() < 60);
  });

  describe('of several disks on one path', () => {
    for (const [count, rtt, rate] of [
      [4, 50, 100],
      [16, 50, 100],
      [16, 10, 1000],
      [4, 100, 20],
      [16, 200, 20],
    ] as const) {
      it(`is one for all: ${count} disks, ${rtt} ms, ${rate} Mbit/s`, () => {
        const path = new PathModel(mbit(rate), rtt);
        const disks = begin(path, count);
        path.run(5000);
        path.longestQueue();
        const got = shares(path, disks, 20_000);
        assert.ok(sum(got) > 0.93, `${sum(got)} of the line`);
        const ratio = Math.max(...got) / Math.min(...got);
        assert.ok(ratio < 1.3, `the slowest waits ${ratio} times as long as the fastest`);
        const most = (2 * count * 16 * 1024) / path.rate + 30 + rtt / 4;
        const longest = path.longestQueue();
        assert.ok(longest < most, `${longest} ms of queue`);
      });
    }

    it('starves none, whenever it begins', () => {
      const random = new Random(11);
      for (let round = 0; round < 20; round++) {
        const path = new PathModel(mbit([4, 20, 100, 400][random.below(4)]!), [5, 30, 120][random.below(3)]!);
        const board = new PathBoard();
        const count = 2 + random.below(5);
        const disks: Traveller[] = [];
        for (let at = 0; at < count; at++) {
          disks.push(path.begin(new PathWindow({ probed: true, exchange: board.exchange(`${at}`) })));
          path.run(random.below(3000));
        }
        path.run(5000);
        for (let second = 0; second < 4; second++) {
          const got = shares(path, disks, 5000);
          const least = Math.min(...got) * count;
          assert.ok(least > 0.5, `round ${round}: one of ${count} gets ${least} of its share`);
        }
      }
    });

    it('has weights', () => {
      const path = new PathModel(mbit(100), 50);
      const disks = begin(path, 2, (at) => (at === 0 ? 1 : 3));
      path.run(10_000);
      const [one, other] = shares(path, disks, 20_000);
      assert.ok(other! / one! > 2.3 && other! / one! < 3.7, `${one} and ${other}`);
      assert.ok(one! + other! > 0.93);
    });

    it('leaves the share of one that is complete to the others, at once', () => {
      const path = new PathModel(mbit(100), 50);
      const board = new PathBoard();
      const stays = path.begin(new PathWindow({ probed: true, exchange: board.exchange('stays') }));
      const leaves = path.begin(new PathWindow({ probed: true, exchange: board.exchange('leaves') }));
      path.run(5000);
      leaves.wanted = 0;
      board.leave('leaves');
      path.run(2000);
      const [used] = shares(path, [stays], 3000);
      assert.ok(used! > 0.9, `${used} of the line`);
    });
  });
});
