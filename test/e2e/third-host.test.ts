/** A guest that moves on before its disks have arrived: to a third host, and back to where it came from. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { logTells, memoryFlows } from '../lab/sites/interrupted-migrations.ts';
import { become, emptied, states, writableOnlyAt } from '../lab/sites/outcome.ts';
import { announced, arrived, type Site, startedGuest, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const FOR_GOOD = ['--live', '--persistent', '--undefinesource'];

describe('a guest that moves on before its disks are complete', function () {
  this.timeout(240_000);
  const { sites, begin, story } = useSites({ third: true, config: '[relocation]\nretired = delete\n' });
  let guest: Guest;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite'], 96);
  });

  /** Moves it so that no disk is complete when it has moved. */
  async function move(from: Site, to: Site): Promise<void> {
    // The memory goes fast, what the disks lack slowly: it all comes from the gateways.
    await sites().lab.setPortRate(10809, 8);
    await guest.migrate(from.host, to.host, ...FOR_GOOD);
    await guest.progress(3);
    for (const { export: disk } of guest.spec.disks) {
      const status = (await to.status(disk))!;
      assert.equal(status.state, 'relocating', `${disk} is still on its way`);
      assert.ok(status.presentBytes < status.sizeBytes);
    }
    await writableOnlyAt(sites(), guest, to);
    await announced(to, guest);
  }

  async function nothingBut(site: Site): Promise<void> {
    for (const other of sites().all.filter((each) => each !== site)) await emptied(other);
  }

  story('goes to a third host, back, and not back', (step) => {
    step('C from B from A: only C can write, every byte arrives, and nothing stays behind', async () => {
      const { lab, all } = sites();
      const [a, b, c] = all as [Site, Site, Site];
      await move(a, b);
      await move(b, c);
      assert.deepEqual(await states(a, guest), ['fenced']);
      assert.deepEqual(await states(b, guest), ['fenced']);
      assert.equal((await b.status('vm1-vda'))?.movedTo, 'c:10809');
      await lab.setRate(undefined);
      await arrived(c, guest);
      assert.equal((await c.status('vm1-vda'))?.generation, 3);
      assert.deepEqual(await wrongBytes(c, guest, await guest.stop()), []);
      await nothingBut(c);
      await guest.go();
    });

    step(
      'back to where it came from: that serves its older generation beside the one that arrives',
      async () => {
        const { lab, all } = sites();
        const [, b, c] = all as [Site, Site, Site];
        await move(c, b);
        await move(b, c);
        assert.deepEqual(await states(c, guest, '@3'), ['fenced']);
        assert.deepEqual(await states(b, guest), ['fenced']);
        await logTells(c, /the old copy of disk vm1-vda \(generation 3, fenced\) is set aside/);
        await lab.setRate(undefined);
        await arrived(c, guest);
        assert.equal((await c.status('vm1-vda'))?.generation, 5);
        assert.deepEqual(await wrongBytes(c, guest, await guest.stop()), []);
        await nothingBut(c);
        await waitFor('the older generation to be gone', async () =>
          (await states(c, guest, '@3')).every((state) => state === undefined),
        );
        assert.deepEqual(
          (await c.leftovers()).filter((name) => name.includes('@')),
          [],
        );
        await guest.go();
      },
    );

    step('a move back that comes to nothing: what was set aside has its name again', async () => {
      const { lab, all } = sites();
      const [, b, c] = all as [Site, Site, Site];
      await move(c, b);
      await lab.setRate(10);
      const end = guest.migrate(b.host, c.host, ...FOR_GOOD).then(
        () => assert.fail('it was migrated'),
        (error: unknown) => (error as Error).message,
      );
      await become(c, guest, 'standby');
      await memoryFlows(b, guest);
      await b.host.virsh('domjobabort', guest.name);
      assert.match(await end, /error: /);
      await become(c, guest, 'fenced');
      assert.deepEqual(await states(c, guest, '@5'), [undefined]);
      await guest.progress();
      await lab.setRate(undefined);
      await arrived(b, guest);
      assert.deepEqual(await wrongBytes(b, guest, await guest.powerOff()), []);
      await nothingBut(b);
    });
  });
});
