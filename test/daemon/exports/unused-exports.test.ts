/** Times of grace are measured: a clock that is set, forward or back, ends none and prolongs none. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Exports } from '../../../src/daemon/exports/exports.ts';
import { UnusedExports } from '../../../src/daemon/exports/unused-exports.ts';
import { Domains } from '../../../src/daemon/registry/domains.ts';
import { noLauncher } from '../../lab/host/no-launcher.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

describe('a clock that is set', () => {
  const realNow = Date.now;
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let domains: Domains;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    domains = new Domains(directory.path);
    await domains.load();
  });
  afterEach(async () => {
    Date.now = realNow;
    await directory.remove();
  });

  for (const [way, byMs] of [
    ['forward', 86_400_000],
    ['back', -86_400_000],
  ] as const) {
    it(`${way}: an export that was lent a moment ago stays, and a domain was used a moment ago`, async () => {
      const { path } = directory;
      const exports = new Exports({ images: path, exports: path, run: path }, noLauncher);
      const unused = new UnusedExports(domains, exports);
      unused.noteLent('vda');
      unused.awaitNextHost('vdb');
      await domains.use({ uuid: 'one', name: 'vm', exports: [], shared: [] });
      Date.now = () => realNow() + byMs;
      await unused.endThoseDue();
      assert.ok(unused.mustStay('vda'));
      assert.ok(unused.mustStay('vdb'));
      await sleep(20);
      const passed = domains.unusedMs('one');
      assert.ok(passed >= 15 && passed < 60_000, `unused for ${passed} ms`);
      assert.equal(domains.unusedMs('another'), Number.POSITIVE_INFINITY);
    });
  }
});
