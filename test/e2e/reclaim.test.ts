/** A host that is lost after the takeover: nobody starts the guest twice, and an administrator takes its disks back. */
import assert from 'node:assert/strict';
import { constants } from 'node:fs';
import { copyFile, writeFile } from 'node:fs/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import type { DiskReport } from '../lab/libvirt/guest-reports.ts';
import { differences } from '../lab/libvirt/pattern.ts';
import { logTells } from '../lab/sites/interrupted-migrations.ts';
import { comeBack, vanish } from '../lab/sites/outage.ts';
import { states } from '../lab/sites/outcome.ts';
import { reclaimed, xnbdctl } from '../lab/sites/reclaimed.ts';
import { startedGuest } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const DISKS = ['vm1-vda', 'vm1-vdb'];

describe('a host that is lost after the takeover', function () {
  this.timeout(240_000);
  const { sites, begin, story } = useSites();
  let guest: Guest;
  /** What the guest had written when it left A. */
  let left: Map<string, DiskReport>;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 64);
    await guest.progress();
  });

  async function refusedAtA(pattern: RegExp): Promise<void> {
    await assert.rejects(sites().a.host.virsh('start', guest.name), pattern);
    assert.deepEqual(await states(sites().a, guest), ['fenced', 'fenced']);
  }

  story('keeps nobody from its disks for ever', (step) => {
    step('the guest moves, and writes there', async () => {
      const { lab, a, b } = sites();
      // Resting while it moves: so it is known what A's images hold from then on.
      left = await guest.stop();
      await lab.setPortRate(10809, 8);
      await guest.migrate(a.host, b.host, '--live', '--persistent');
      await guest.go();
      await guest.progress();
      assert.deepEqual(await states(b, guest), ['relocating', 'relocating']);
    });

    step('it is not started at A: virsh says where it is and what to do', async () => {
      await refusedAtA(
        /xnbd: disk vm1-vda of vm1 moved to b:10809 at 20\S+Z, which still copies from here; start vm1 there, or, if that host is lost for good: xnbdctl reclaim vm1-vda --force/,
      );
      await guest.progress();
    });

    step('its disks are not taken from a host that is alive, not by force either', async () => {
      const { a } = sites();
      for (const force of [[], ['--force']]) {
        const { code, stdout, stderr } = await xnbdctl(a, 'reclaim', 'vm1-vda', ...force);
        assert.equal(code, 1);
        assert.match(stdout, /^vm1-vda moved to b:10809 at 20\S+Z \(fenced here\)\.$/m);
        assert.match(stderr, /^xnbdctl: b:10809 serves vm1-vda: it is not lost\. .*nothing was changed$/m);
      }
      assert.deepEqual(await states(a, guest), ['fenced', 'fenced']);
      await guest.progress();
      assert.deepEqual(guest.errors, []);
    });

    step('the host is gone at once: A stays fenced until an administrator takes the disks back', async () => {
      const { a, b } = sites();
      await vanish(sites(), b);
      await refusedAtA(/moved to b:10809/);

      const asked = await xnbdctl(a, 'reclaim', 'vm1-vda');
      assert.equal(asked.code, 1);
      assert.match(
        asked.stdout,
        /What its guest has written since then is on that host alone: a reclaim gives it up\.$/m,
      );
      assert.match(asked.stdout, /^b:10809: b:10809 /m);
      assert.match(
        asked.stderr,
        /nothing was changed\. If b:10809 is lost for good: xnbdctl reclaim vm1-vda --force; /,
      );
      assert.deepEqual(await states(a, guest), ['fenced', 'fenced']);

      for (const name of DISKS) await reclaimed(a, name);
      for (const { target, export: disk } of guest.spec.disks) {
        const { sizeBytes, writes } = left.get(target)!;
        assert.deepEqual(await differences(a.image(disk), { exportName: disk, sizeBytes, writes }), []);
      }
    });

    step('the guest starts at A, and works', async () => {
      const { a } = sites();
      // Started anew it knows nothing of what it wrote before.
      const xml = await a.host.virsh('dumpxml', '--inactive', guest.name);
      const path = a.host.outside('/run/lab/again.xml');
      await writeFile(path, xml.replaceAll(/(xnbd\.vd\w=[\w-]+:[0-9a-f]+):pattern/g, '$1'));
      await a.host.virsh('define', '/run/lab/again.xml');
      for (const { export: disk } of guest.spec.disks)
        await copyFile(
          a.image(disk),
          a.host.outside(`/var/lib/xnbd/${disk}.before`),
          constants.COPYFILE_FICLONE,
        );
      guest.errors.length = 0;
      await guest.start(a.host);
      await guest.progress();
    });

    step(
      'the lost host comes back: its copies are void, nobody is served from them, and it says how to delete them',
      async () => {
        const { lab, a, b } = sites();
        await lab.setRate(undefined);
        await comeBack(sites(), b);
        for (const name of DISKS) {
          await logTells(
            b,
            /was reclaimed here by an administrator, .*; what is here is void, and is served no more/,
            name,
          );
          await waitFor(`the end of ${name} at B`, async () => (await b.processes()).size === 0, 60_000);
          const { stdout } = await xnbdctl(b, 'status', name);
          assert.match(stdout, /^state +reclaimed, not running$/m);
          assert.match(
            stdout,
            new RegExp(`^error .*reclaimed here by an administrator.*xnbdctl delete ${name} --force$`, 'm'),
          );
        }
        await assert.rejects(
          b.host.virsh('start', guest.name),
          /disk vm1-vda of vm1 is void here: the host that it came from has taken it back/,
        );
        for (const name of DISKS) {
          assert.match((await xnbdctl(b, 'delete', name)).stderr, /may hold the last writes of .*'s guest/);
          const { code, stdout } = await xnbdctl(b, 'delete', name, '--force');
          assert.equal(code, 0);
          assert.match(stdout, /^vm1-vd.: its old image \S+ is deleted$/m);
        }
        assert.deepEqual(await b.leftovers(), []);
        assert.equal((await b.processes()).size, 0);
        await guest.progress();
        const reports = await guest.powerOff();
        assert.deepEqual(guest.errors, []);
        for (const { target, export: disk } of guest.spec.disks) {
          const { sizeBytes, writes } = reports.get(target)!;
          const initialImage = a.host.outside(`/var/lib/xnbd/${disk}.before`);
          assert.deepEqual(
            await differences(a.image(disk), { exportName: disk, sizeBytes, writes, initialImage }),
            [],
          );
        }
      },
    );
  });
});
