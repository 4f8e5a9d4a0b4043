/**
 * A host that is gone for a while after the takeover, and comes back: first the one that the guest came from, then the one where it is. Nobody
 * gives anything up: what needs the other host waits, and goes on by itself. (A host that is lost for good: reclaim.test.ts.)
 */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import type { DiskReport } from '../lab/libvirt/guest-reports.ts';
import { logTells } from '../lab/sites/interrupted-migrations.ts';
import { boot, comeBack, killAll, vanish } from '../lab/sites/outage.ts';
import { become, endsAtB, followsToB, states, writableOnlyAt } from '../lab/sites/outcome.ts';
import { announced, startedGuest } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('a host that is gone for a while after the takeover', function () {
  this.timeout(240_000);
  const { sites, begin, story } = useSites({ config: '[relocation]\nretired = delete\n' });
  let guest: Guest;
  const reports: Map<string, DiskReport>[] = [];

  begin(async () => {
    reports.length = 0;
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 64, 'again');
  });

  /** At B each disk knows whether its origin can be reached. */
  async function reachable(wanted: boolean): Promise<void> {
    for (const { export: disk } of guest.spec.disks) {
      const there = async () => (await sites().b.status(disk))?.originReachable === wanted;
      await waitFor(`the origin of ${disk} to be ${wanted ? 'reachable' : 'unreachable'}`, there, 60_000);
    }
  }

  /** vda's reader comes to a block that is not here, and stays there; vdb is only written, in whole blocks, and needs nobody. */
  async function waits(): Promise<void> {
    const vda = () => guest.counts.get('vda')!.reads;
    await waitFor(
      'a read of vda to wait',
      async () => {
        const before = vda();
        await guest.progress(20, 60_000, ['vdb']);
        return vda() === before;
      },
      60_000,
    );
    assert.deepEqual(guest.errors, []);
  }

  /** What waited is answered. The line is slow, and both disks want all of it. */
  async function goesOn(): Promise<void> {
    await guest.progress(3, 180_000);
    assert.deepEqual(guest.errors, []);
  }

  const status = async (disk: string) => (await sites().b.host.exec(['xnbdctl', 'status', disk])).stdout;

  const notAtA = () =>
    assert.rejects(sites().a.host.virsh('start', guest.name), /xnbd: disk vm1-vda of vm1 moved to b:10809/);

  story('A is gone and comes back, then B, and every block arrives', (step) => {
    step('the guest moves, and works there', async () => {
      const { lab, a, b } = sites();
      await lab.setPortRate(10809, 4);
      await guest.migrate(a.host, b.host, '--live', '--persistent');
      await guest.progress(3);
      await followsToB(sites(), guest);
      await announced(b, guest);
    });

    step(
      'A is gone at once: what is at B is served, the rest waits, and xnbdctl tells since when',
      async () => {
        const { a, b } = sites();
        await vanish(sites(), a);
        await reachable(false);
        await waits();
        for (const { export: disk } of guest.spec.disks) {
          assert.match(await status(disk), /^unreachable +since 20\S+Z: /m);
          await logTells(b, new RegExp(`disk ${disk}: its origin nbd://a\\S* is unreachable: `));
        }
        assert.match((await b.host.exec(['xnbdctl', 'list'])).stdout, /origin unreachable since 20\S+Z/);
        await followsToB(sites(), guest);
      },
    );

    step('A is back: what waited is answered, and the copy goes on', async () => {
      const { a, b } = sites();
      await comeBack(sites(), a);
      await reachable(true);
      await goesOn();
      assert.doesNotMatch(await status('vm1-vda'), /unreachable/);
      await logTells(b, /disk vm1-vda: its origin can be reached again/);
      await followsToB(sites(), guest);
      await notAtA();
    });

    step(
      'A is rebooted: it is fenced when it is up again, starts no guest, and the copy goes on',
      async () => {
        const { a } = sites();
        await killAll(a);
        await reachable(false);
        await waits();
        await boot(sites(), a);
        await notAtA();
        await reachable(true);
        await goesOn();
        await followsToB(sites(), guest);
        await notAtA();
      },
    );

    step(
      "B's host is gone at once and boots again: the guest is started there, with all that it had flushed",
      async () => {
        const { a, b } = sites();
        reports.push(await guest.stop());
        await vanish(sites(), b);
        await notAtA();
        assert.deepEqual(await states(a, guest), ['fenced', 'fenced']);
        await boot(sites(), b);
        await become(b, guest, 'relocating');
        await guest.start(b.host);
        await goesOn();
        await followsToB(sites(), guest);
        await logTells(b, /vm1-vda: relocating again, \d+ of \d+ bytes present/, 'vm1-vda');
        await notAtA();
      },
    );

    step('in the end every block is there, and A keeps nothing', async () => {
      await endsAtB(sites(), guest, reports);
      await writableOnlyAt(sites(), guest, sites().b);
    });
  });
});
