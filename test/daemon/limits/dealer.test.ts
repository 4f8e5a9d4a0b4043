/** The order in which shares are told, with exports that this test plays. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { capsNow } from '../../../src/config/caps.ts';
import { type Config, parseConfig } from '../../../src/config/config.ts';
import { type ExportStatus, emptyStatus } from '../../../src/control/status.ts';
import type { Exports } from '../../../src/daemon/exports/exports.ts';
import { Dealer } from '../../../src/daemon/limits/dealer.ts';

const M = 1e6;

/** What the dealer asks of exports, each of which answers as `answer` does. */
class PlayedExports extends EventEmitter {
  readonly statuses = new Map<string, ExportStatus>();
  readonly shares = new Map<string, number | null>();
  answer: (name: string, rate: number | null) => Promise<void> = () => Promise.resolve();

  say(name: string, changes: Partial<ExportStatus> = {}): void {
    const status: ExportStatus = {
      ...emptyStatus,
      ...{ name, state: 'relocating', origin: 'nbd://a.example/x', sizeBytes: 100, pid: 1, copyHeld: true },
      share: this.shares.get(name) ?? null,
      ...changes,
    };
    this.statuses.set(name, status);
    this.emit('status', status);
  }

  end(name: string): void {
    this.statuses.delete(name);
    this.shares.delete(name);
    this.emit('ended', name);
  }

  running(): ExportStatus[] {
    return [...this.statuses.values()];
  }

  async call(name: string, _method: string, { rate }: { rate: number | null }): Promise<void> {
    await this.answer(name, rate);
    this.shares.set(name, rate);
  }
}

describe('the dealer', () => {
  let exports: PlayedExports;
  let dealer: Dealer;
  let config: Config;
  beforeEach(() => {
    exports = new PlayedExports();
    config = parseConfig('', 'x.conf');
    dealer = new Dealer({ exports: exports as unknown as Exports, config });
  });
  const deal = (rate: number | null): Promise<void> =>
    dealer.deal(capsNow(config, { rate, peers: new Map(), paused: false }, new Date()), false);
  const sum = (): number =>
    exports
      .running()
      .reduce((total, { name }) => total + (exports.shares.get(name) ?? Number.POSITIVE_INFINITY), 0);

  it('never lets all together have more than the cap, in the middle of a change either', async () => {
    for (const name of ['x', 'y', 'z']) exports.say(name);
    await deal(30 * M);
    assert.equal(sum(), 30 * M);
    let most = 0;
    exports.answer = async () => {
      most = Math.max(most, sum());
      await new Promise((resolve) => setImmediate(resolve));
      most = Math.max(most, sum());
    };
    exports.say('x', { settings: { weight: '1000' } });
    await deal(30 * M);
    assert.equal(sum(), 30 * M);
    assert.ok(exports.shares.get('x')! > 20 * M);
    assert.ok(most <= 30 * M, `${most} in between`);
  });

  it('gives nobody more while one has not answered that is to have less', async () => {
    for (const name of ['x', 'y']) exports.say(name);
    await deal(30 * M);
    exports.answer = (name) => (name === 'x' ? Promise.reject(new Error('it hangs')) : Promise.resolve());
    exports.say('y', { settings: { weight: '300' } });
    await deal(30 * M);
    assert.deepEqual([...exports.shares.values()], [15 * M, 15 * M]);
    await deal(20 * M);
    await deal(20 * M);
    assert.deepEqual(
      [...exports.shares],
      [
        ['x', 15 * M],
        ['y', 5 * M],
      ],
    );
    exports.answer = () => Promise.resolve();
    exports.say('x');
    await deal(20 * M);
    assert.deepEqual(
      [...exports.shares],
      [
        ['x', 5 * M],
        ['y', 15 * M],
      ],
    );
  });

  it('goes on when an export ends while others are told', async () => {
    for (const name of ['x', 'y', 'z']) exports.say(name);
    await deal(30 * M);
    exports.answer = (name) => {
      if (name === 'x') exports.end('z');
      return Promise.resolve();
    };
    exports.say('x', { settings: { weight: '1' } });
    await deal(30 * M);
    await deal(30 * M);
    assert.ok(sum() <= 30 * M && sum() > 30 * M - 3, `${sum()}`);
  });

  it('takes up what an earlier daemon has told, and tells nothing that is so already', async () => {
    exports.shares.set('x', 10 * M).set('y', 10 * M);
    for (const name of ['x', 'y']) exports.say(name);
    let told = 0;
    exports.answer = () => {
      told += 1;
      return Promise.resolve();
    };
    await deal(20 * M);
    assert.equal(told, 0);
    await deal(null);
    assert.deepEqual([...exports.shares.values()], [null, null]);
  });
});
