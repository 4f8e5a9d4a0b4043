/** What an arriving domain's metadata claims of its disks, and what becomes of claims that are not so. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { TestDomain } from '../../lab/host/test-domain.ts';
import { TwoHosts } from '../../lab/host/two-hosts.ts';

describe('what the metadata of an arriving domain claims', function () {
  this.timeout(60_000);
  let two: TwoHosts;

  afterEach(() => two.remove());

  /** B refuses, says why, keeps nothing; A serves on, its disks lent to nobody. */
  async function refused(claim: (domain: TestDomain) => string, why: RegExp): Promise<void> {
    const domain = await two.travelling();
    const { exit, stderr } = await two.b.hook('migrate', { ...domain, origin: claim(domain) });
    assert.equal(exit, 1);
    assert.match(stderr, why);
    assert.equal(stderr.trimEnd().split('\n').length, 1);
    assert.deepEqual(await two.b.left(), []);
    await two.become(two.a, 'serving');
  }

  it('a socket of this host, another disk, another identity: refused, and nothing is touched', async () => {
    two = await TwoHosts.make();
    const { a } = two;
    await refused(
      ({ origin }) => origin!.replace(/nbd:[^"]*vm1-vda/, `nbd+unix:///vm1-vda?socket=${a.run}/vm1-vda.sock`),
      /disk vm1-vda is nbd\+unix:.*a socket of this host/,
    );
    await refused(
      ({ origin }) => origin!.replace(/\/vm1-vda"/, '/vm1-vdb"'),
      /disk vm1-vda is nbd:.*\/vm1-vdb, which is another disk: refused/,
    );
    await refused(
      ({ origin }) => origin!.replace(/uuid="[^"]*"/, `uuid="${randomUUID()}"`),
      /it is another disk/,
    );
    await refused(
      ({ origin }) => origin!.replace(/generation="1"/, 'generation="7"'),
      /is of generation 1, not 7/,
    );
    // As it is, it comes.
    await two.b.succeeds('migrate', await two.travelling());
    assert.deepEqual(await two.states(two.b), ['standby', 'standby']);
  });

  it('a host that this one does not know: refused, with the line to add', async () => {
    two = await TwoHosts.make({ config: '[peers]\nc = 192.0.2.9:10809\n' });
    await refused(({ origin }) => origin!, /does not know that host: name it under \[peers\] \(NAME = 127/);
  });
});
