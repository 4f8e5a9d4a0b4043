/** How a rate is dealt out among disks, and what their statuses say of them. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type ExportStatus, emptyStatus } from '../../../src/control/status.ts';
import { isArriving, isHindered, Meter, queued } from '../../../src/daemon/limits/arrivals.ts';
import { type Claim, deal } from '../../../src/daemon/limits/deal.ts';

const M = 1e6;
const claim = (name: string, changes: Partial<Claim> = {}): Claim => ({
  name,
  peer: 'a',
  weight: 100,
  demand: 0,
  want: Number.POSITIVE_INFINITY,
  most: Number.POSITIVE_INFINITY,
  ...changes,
});
const dealt = (claims: Claim[], host: number | null, peers: Record<string, number> = {}) =>
  Object.fromEntries(deal(claims, { host, peers: new Map(Object.entries(peers)) }));

describe('a rate among disks', () => {
  it('goes by weight to those that could use more', () => {
    assert.deepEqual(dealt([claim('x'), claim('y', { weight: 300 })], 40 * M), { x: 10 * M, y: 30 * M });
  });

  it('goes to those that can use it, and what all leave to all', () => {
    const slow = claim('slow', { want: 2 * M });
    assert.deepEqual(dealt([slow, claim('x'), claim('y')], 30 * M), { slow: 2 * M, x: 14 * M, y: 14 * M });
    assert.deepEqual(dealt([slow, claim('x', { want: 4 * M })], 30 * M), { slow: 14 * M, x: 16 * M });
    const paused = claim('paused', { want: 0, most: 0 });
    assert.deepEqual(dealt([paused, claim('x', { most: 5 * M }), claim('y')], 30 * M), {
      paused: 0,
      x: 5 * M,
      y: 25 * M,
    });
  });

  it('has what comes on demand taken off first, and may be used up by it', () => {
    assert.deepEqual(dealt([claim('x', { demand: 10 * M }), claim('y')], 30 * M), { x: 20 * M, y: 10 * M });
    assert.deepEqual(dealt([claim('x', { demand: 40 * M }), claim('y')], 30 * M), { x: 40 * M, y: 0 });
  });

  it('of a host and of a peer hold both, and none where none is', () => {
    const [x, y, z] = [claim('x'), claim('y'), claim('z', { peer: 'b' })];
    assert.deepEqual(dealt([x, y, z], 30 * M, { a: 10 * M }), { x: 5 * M, y: 5 * M, z: 20 * M });
    assert.deepEqual(dealt([x, y, z], null, { a: 10 * M }), { x: 5 * M, y: 5 * M, z: null });
    assert.deepEqual(dealt([x, y, z], null), { x: null, y: null, z: null });
    assert.deepEqual(dealt([x], 0), { x: 0 });
    assert.deepEqual(dealt([], 30 * M), {});
  });

  it('is never exceeded, never left idle, and fair, whatever is claimed', () => {
    const rates = fc.oneof(
      fc.constant(Number.POSITIVE_INFINITY),
      fc.double({ min: 0, max: 1e10, noNaN: true }),
    );
    const claims = fc.array(
      fc.record({
        peer: fc.constantFrom('a', 'b', null),
        weight: fc.integer({ min: 1, max: 10_000 }),
        demand: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1e8, noNaN: true })),
        want: rates,
        most: rates,
      }),
      { minLength: 1, maxLength: 20 },
    );
    const cap = fc.oneof(fc.constant(0), fc.constant(null), fc.double({ min: 0, max: 1e10, noNaN: true }));
    fc.assert(
      fc.property(claims, cap, cap, (some, host, peer) => {
        const all = some.map((each, at) => ({ ...each, name: String(at) }));
        const shares = deal(all, { host, peers: new Map([['a', peer]]) });
        const groups = [
          { cap: host, members: all },
          { cap: peer, members: all.filter((each) => each.peer === 'a') },
        ];
        const sum = (members: Claim[], of: (each: Claim) => number): number =>
          members.reduce((total, each) => total + of(each), 0);
        const copy = (each: Claim): number => shares.get(each.name)! - each.demand;
        for (const { cap: limit, members } of groups) {
          if (limit === null) continue;
          const demand = sum(members, (each) => each.demand);
          assert.ok(sum(members, (each) => shares.get(each.name)!) <= Math.max(limit, demand) + 1e-3);
        }
        for (const each of all) {
          const capped = host !== null || (each.peer === 'a' && peer !== null);
          assert.equal(shares.get(each.name) === null, !capped);
          if (!capped) continue;
          assert.ok(copy(each) <= each.most + 1e-3 && copy(each) >= -1, `${each.name} gets ${copy(each)}`);
          if (copy(each) >= Math.min(each.most, 1e9) - 2) continue;
          // It has less than it may have: then a cap that holds for it is used up.
          const tight = groups.some(
            ({ cap: limit, members }) =>
              limit !== null &&
              members.includes(each) &&
              sum(members, (other) => shares.get(other.name)!) >= limit - 2 * all.length,
          );
          assert.ok(tight, `${each.name} gets ${copy(each)} and could have more`);
          // And nobody in the same place has more a weight, but for what it wants less.
          for (const other of all)
            if (other.peer === each.peer && copy(each) < Math.min(each.want, each.most) - 2)
              assert.ok(
                copy(other) / other.weight <= copy(each) / each.weight + 2 || copy(other) <= 2,
                `${other.name} gets more than ${each.name}`,
              );
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('disks that arrive', () => {
  const status = (name: string, changes: Partial<ExportStatus> = {}): ExportStatus => ({
    ...emptyStatus,
    name,
    state: 'relocating',
    origin: 'nbd://a.example/x',
    sizeBytes: 100,
    ...changes,
  });

  it('are those of which blocks are absent, after the takeover', () => {
    assert.deepEqual(
      [
        status('x'),
        status('x', { state: 'fenced' }),
        status('x', { state: 'standby' }),
        status('x', { presentBytes: 100 }),
        status('x', { origin: null }),
        status('x', { state: 'retired' }),
      ].map(isArriving),
      [true, true, false, false, false, false],
    );
  });

  it('cannot go on when paused, without room or origin; but for the reason that they were given', () => {
    const whys = new Set(['it queues']);
    assert.deepEqual(
      [
        status('x'),
        status('x', { copyPaused: 'it queues' }),
        status('x', { copyPaused: 'no room' }),
        status('x', { originReachable: false }),
        status('x', { settings: { paused: 'on' } }),
      ].map((each) => isHindered(each, whys)),
      [false, false, true, true, true],
    );
  });

  it('queue in the order of their takeovers; one that cannot go on makes way', () => {
    const all = [status('first'), status('away', { originReachable: false }), status('next'), status('late')];
    const hindered = ({ originReachable }: ExportStatus): boolean => !originReachable;
    const waiting = (most: number | null) => [...queued(all, hindered, most)];
    assert.deepEqual(waiting(2), ['late']);
    assert.deepEqual(waiting(1), ['next', 'late']);
    assert.deepEqual(waiting(3), []);
    assert.deepEqual(waiting(null), []);
  });

  it('have their rates measured, of each kind, over a restart of their export', () => {
    const meter = new Meter();
    for (let turn = 0; turn <= 20; turn++)
      meter.add(status('x', { onDemandBytes: turn * 500, backgroundBytes: turn * 1000 }), turn * 500);
    const near = (value: number, expected: number): void =>
      assert.ok(Math.abs(value - expected) < expected * 0.01, `${value}, not ${expected}`);
    near(meter.demand, 8000);
    near(meter.copy, 16_000);
    meter.add(status('x'), 10_500);
    near(meter.copy, 16_000);
    for (let turn = 0; turn < 20; turn++) meter.add(status('x'), 11_000 + turn * 500);
    assert.ok(meter.copy < 1 && meter.demand < 1);
  });
});
