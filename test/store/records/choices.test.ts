/** What an administrator has chosen for a host, on disk. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { capsNow } from '../../../src/config/caps.ts';
import { parseConfig } from '../../../src/config/config.ts';
import { choose, readChoices } from '../../../src/store/records/choices.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

describe('choices for a host', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let path: string;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    path = join(directory.path, 'new', 'limits.json');
  });
  afterEach(() => directory.remove());

  it('are none at first, and each is kept beside the others until it is undone', async () => {
    assert.deepEqual(await readChoices(path), { peers: new Map(), paused: false });
    await choose(path, { of: 'host', rate: 30e6 });
    await choose(path, { of: 'peer', peer: 'site-b', rate: 0 });
    await choose(path, { of: 'all', paused: true });
    await choose(path, { of: 'peer', peer: '192.0.2.1', rate: null });
    assert.deepEqual(await readChoices(path), {
      rate: 30e6,
      peers: new Map([
        ['site-b', 0],
        ['192.0.2.1', null],
      ]),
      paused: true,
    });
    await choose(path, { of: 'host', rate: undefined });
    await choose(path, { of: 'peer', peer: 'site-b', rate: undefined });
    await choose(path, { of: 'all', paused: false });
    assert.deepEqual(await readChoices(path), { peers: new Map([['192.0.2.1', null]]), paused: false });
  });

  it('lose none of many that are made at once', async () => {
    const peers = Array.from({ length: 20 }, (_, at) => `host${at}`);
    await Promise.all(peers.map((peer) => choose(path, { of: 'peer', peer, rate: 1e6 })));
    assert.deepEqual([...(await readChoices(path)).peers.keys()].sort(), peers.sort());
  });

  it('keep what another release wrote, and are refused where they make no sense', async () => {
    await choose(path, { of: 'host', rate: 1e6 });
    await writeFile(path, '{"version":1,"rate":"5M","evenings":{"off":true}}');
    await choose(path, { of: 'all', paused: true });
    assert.deepEqual(JSON.parse(await readFile(path, 'utf8')), {
      version: 1,
      rate: '5M',
      evenings: { off: true },
      peers: {},
      paused: true,
    });
    for (const text of [
      '',
      '{}',
      '{"version":2}',
      '{"version":1,"rate":"5"}',
      '{"version":1,"peers":{"a":5}}',
    ]) {
      await writeFile(path, text);
      await assert.rejects(readChoices(path), /limits\.json does not tell limits .* set them again/);
      await assert.rejects(choose(path, { of: 'all', paused: true }), /does not tell limits/);
      assert.equal(await readFile(path, 'utf8'), text);
    }
  });

  it('count before the schedule, and that before the plain rate', () => {
    const config = parseConfig(
      `[relocation]
rate = 200M
rate-schedule = Mon-Fri 08:00-18:00 20M
[peers]
site-b = b.example:1
[peer-rate-schedule]
site-b = 12:00-13:00 0
`,
      'x.conf',
    );
    const at = (hour: number, chosen: { rate?: number | null; site?: number | null } = {}) => {
      const { rate, site } = chosen;
      const peers = new Map(site === undefined ? [] : [['site-b', site]]);
      // The 2nd of November 2026 is a Monday.
      const now = new Date(2026, 10, 2, hour);
      const { host, peers: caps } = capsNow(
        config,
        { ...(rate !== undefined && { rate }), peers, paused: false },
        now,
      );
      return [host, caps.get('site-b')].map((cap) => [cap?.rate, cap?.said]);
    };
    assert.deepEqual(at(7), [
      [200e6, 'xnbd.conf'],
      [null, 'xnbd.conf'],
    ]);
    assert.deepEqual(at(12), [
      [20e6, 'rate-schedule, Mon-Fri 08:00-18:00 20M'],
      [0, 'rate-schedule, 12:00-13:00 0'],
    ]);
    assert.deepEqual(at(12, { rate: null, site: 5e6 }), [
      [null, 'xnbdctl limit'],
      [5e6, 'xnbdctl limit'],
    ]);
  });
});
