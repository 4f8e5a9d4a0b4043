/** A guest that boots anew runs no hook, and its disks notice nothing: at rest, and while they follow it. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import type { DiskReport } from '../lab/libvirt/guest-reports.ts';
import { logOf } from '../lab/sites/interrupted-migrations.ts';
import { endsAtB, followsToB, states, writableOnlyAt } from '../lab/sites/outcome.ts';
import { type Site, startedGuest } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';

describe('a guest that boots anew', function () {
  this.timeout(240_000);
  const { sites, begin, story } = useSites({ config: '[relocation]\nretired = delete\n' });
  let guest: Guest;
  const reports: Map<string, DiskReport>[] = [];

  begin(async () => {
    reports.length = 0;
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 64, 'again');
    await guest.progress();
  });

  const WAYS: [string, (site: Site) => Promise<void>][] = [
    ['from inside', async () => void reports.push(await guest.reboot())],
    [
      'with virsh reset',
      async ({ host }) => {
        reports.push(await guest.stop());
        await guest.boots(() => host.virsh('reset', guest.name));
      },
    ],
    [
      'with virsh reboot',
      async ({ host }) => {
        await guest.boots(async () => {
          // libvirt presses the button, and boots it when it has switched itself off. This guest has no button: it is told.
          await host.virsh('reboot', guest.name);
          reports.push(await guest.powerOff());
        });
      },
    ],
  ];

  async function noHook(site: Site, how: (site: Site) => Promise<void>): Promise<void> {
    const hooks = async () => (await logOf(site)).match(/debug: hook /g)?.length ?? 0;
    const pid = await site.host.qemuPid(guest.name);
    const before = await hooks();
    await how(site);
    await guest.progress(3);
    assert.equal(await hooks(), before);
    assert.equal(await site.host.qemuPid(guest.name), pid);
    assert.deepEqual(guest.errors, []);
  }

  story('does so at rest and while its disks follow it', (step) => {
    step('from inside, at rest', async () => {
      const { a } = sites();
      await noHook(a, WAYS[0]![1]);
      assert.deepEqual(await states(a, guest), ['serving', 'serving']);
      await writableOnlyAt(sites(), guest, a);
    });

    step('moves, and its disks follow slowly', async () => {
      const { lab, a, b } = sites();
      await lab.setPortRate(10809, 4);
      await guest.migrate(a.host, b.host, '--live', '--persistent', '--undefinesource');
      await guest.progress(3);
    });

    for (const [way, how] of WAYS)
      step(`${way}, while its disks follow`, async () => {
        await noHook(sites().b, how);
        await followsToB(sites(), guest);
      });

    step('has every byte of its disks in the end', async () => {
      await endsAtB(sites(), guest, reports);
    });
  });
});
