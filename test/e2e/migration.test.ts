/** The main job: a guest that writes all the while moves with `virsh migrate`, its disks follow, and are compared with where they came from. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { logTells } from '../lab/sites/interrupted-migrations.ts';
import { arrived, guestWithDisks, type Site, signalsOf, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('a virtual machine moves with its disks', function () {
  this.timeout(300_000);
  const { sites, it } = useSites({ config: '[relocation]\nretired = delete\nverify = on\n' });

  /** The signals of one relocation, in order, and what the last one says of each disk. */
  async function completed(site: Site, guest: Guest, number: number): Promise<void> {
    const ours = () => signalsOf(sites(), site, guest);
    await waitFor(
      `RelocationCompleted of ${guest.name}`,
      () => ours().filter(({ name }) => name === 'RelocationCompleted').length === number,
    );
    assert.deepEqual(
      ours().map(({ name }) => name),
      Array.from({ length: number }, () => ['RelocationStarted', 'RelocationCompleted']).flat(),
    );
    const disks = ours().at(-1)!.rest as [string, bigint, bigint, bigint, number][];
    assert.deepEqual(
      disks.map(([name]) => name).sort(),
      guest.spec.disks.map((disk) => disk.export),
    );
    for (const [name, onDemand, background, skipped, seconds] of disks) {
      assert.ok(background > 0n && skipped > 0n, `${name}: ${onDemand} ${background} ${skipped}`);
      assert.ok(seconds > 0);
      await logTells(
        site,
        /compared with the origin by hashes: [1-9]\d* bytes equal, 0 different, 0 in doubt/,
        name,
      );
    }
  }

  it('plainly, then as libvirt moves for good, and back again', async () => {
    const { a, b } = sites();
    const guest = await guestWithDisks(sites(), 'vm1', ['rewrite', 'write-only']);
    await guest.start(a.host);
    await guest.progress();
    await waitFor('the origin in the metadata', async () =>
      (await a.host.virsh('dumpxml', 'vm1')).includes('nbd://a'),
    );

    await guest.migrate(a.host, b.host, '--live');
    await guest.progress();
    await arrived(b, guest);
    await completed(b, guest, 1);
    let reports = await guest.stop();
    assert.deepEqual(await wrongBytes(b, guest, reports), []);
    assert.equal(await b.host.virsh('domstate', 'vm1'), 'running');
    await waitFor('the origin to be gone from a', async () => (await a.leftovers()).length === 0);
    await guest.go();

    await guest.migrate(b.host, a.host, '--live', '--p2p', '--persistent', '--undefinesource');
    await guest.progress();
    await arrived(a, guest);
    await completed(a, guest, 1);
    reports = await guest.stop();
    assert.deepEqual(await wrongBytes(a, guest, reports), []);
    await guest.go();

    await guest.migrate(a.host, b.host, '--live', '--p2p', '--persistent', '--undefinesource');
    await guest.progress();
    await arrived(b, guest);
    await completed(b, guest, 2);
    reports = await guest.powerOff();
    assert.deepEqual(await wrongBytes(b, guest, reports), []);
    assert.equal((await b.status('vm1-vda'))?.generation ?? 4, 4);
  });

  it('that writes nothing at all', async () => {
    const { a, b } = sites();
    const guest = await guestWithDisks(sites(), 'vm2', ['idle'], 16);
    await guest.start(a.host);
    await guest.progress(2);
    await guest.migrate(a.host, b.host, '--live');
    await guest.progress(2);
    await arrived(b, guest);
    await completed(b, guest, 1);
    assert.deepEqual(await wrongBytes(b, guest, await guest.powerOff()), []);
  });
});
