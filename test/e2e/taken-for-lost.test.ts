/** A host that an administrator takes for lost, and that is alive: its guest runs twice until it hears of it. */
import assert from 'node:assert/strict';
import { constants } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import { differences } from '../lab/libvirt/pattern.ts';
import { logTells } from '../lab/sites/interrupted-migrations.ts';
import { become, emptied, states, writableOnlyAt } from '../lab/sites/outcome.ts';
import { reclaimed } from '../lab/sites/reclaimed.ts';
import { announced, guestWithDisks } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('a host that was taken for lost, and is alive', function () {
  this.timeout(240_000);
  const { sites, story } = useSites();
  /** Two guests, from one: at A the one that was started after the reclaim, at B the one that had moved there. */
  let atA: Guest;
  let atB: Guest;

  story('fences itself when it hears of it', (step) => {
    step('its guest moves there, and its cable is cut: it goes on with what it has', async () => {
      const { lab, a, b } = sites();
      const guest = await guestWithDisks(sites(), 'vm1', ['write-only'], 64, 'again');
      await guest.start(a.host);
      await announced(a, guest);
      // Its last flush at A; what it writes from here on is given up.
      await guest.stop();
      await lab.setPortRate(10809, 4);
      await guest.migrate(a.host, b.host, '--live', '--persistent');
      await guest.go();
      await guest.progress();
      atA = guest.onlyOn(lab, a.host);
      atB = guest.onlyOn(lab, b.host);
      await lab.setCable(b.host, false);
      await atB.progress();
      assert.deepEqual(await states(a, atA), ['fenced']);
      assert.deepEqual(await states(b, atB), ['relocating']);
      assert.deepEqual(atB.errors, []);
    });

    step('its disk is taken back by force, and the guest is started at A', async () => {
      const { a } = sites();
      await reclaimed(a, 'vm1-vda');
      await copyFile(a.image('vm1-vda'), a.host.outside('/var/lib/xnbd/before'), constants.COPYFILE_FICLONE);
      await atA.start(a.host);
      await atA.progress();
      assert.deepEqual(await states(a, atA), ['serving']);
      // It cannot know, and its guest has what it needs: a reclaim is for a host of which one knows that it is down.
      await atB.progress();
    });

    step('its cable is mended: it fences itself, and its guest, too, is told', async () => {
      const { lab, a, b } = sites();
      await lab.setCable(b.host, true);
      await become(b, atB, 'reclaimed', 60_000);
      await writableOnlyAt(sites(), atA, a);
      await waitFor('an error of the guest at B', () => atB.errors.length > 0, 60_000);
      assert.match(atB.errors[0]!, /^verify error vda block \d+: write of \d+ blocks: /);
      // Nothing more of it is on its disk.
      const before = (await b.status('vm1-vda'))?.writtenBytes;
      const errors = atB.errors.length;
      await waitFor('more of them', () => atB.errors.length > errors + 3);
      assert.equal((await b.status('vm1-vda'))?.writtenBytes, before);
      await atA.progress();
      assert.deepEqual(atA.errors, []);
    });

    step('the logs tell the story, and what is at B is deleted by hand', async () => {
      const { a, b } = sites();
      await logTells(a, /fenced at generation 1, for lease \S+ of b:10809/, 'vm1-vda');
      await logTells(a, /reclaimed from b:10809 \(lease \S+\), generation 3 now/, 'vm1-vda');
      await logTells(b, /vm1-vda: takeover, by /, 'vm1-vda');
      await logTells(b, /origin a:10809\/vm1-vda is unreachable: /, 'vm1-vda');
      await logTells(
        b,
        /was reclaimed here by an administrator, .*; what is here is void, and is served no more/,
        'vm1-vda',
      );
      await logTells(b, /disk vm1-vda: relocating, now reclaimed/);
      await b.host.virsh('destroy', 'vm1');
      await waitFor('the end of the export at B', async () => (await b.processes()).size === 0, 60_000);
      assert.equal((await b.host.exec(['xnbdctl', 'delete', 'vm1-vda', '--force'])).code, 0);
      await emptied(b);

      const { sizeBytes, writes } = (await atA.powerOff()).get('vda')!;
      assert.deepEqual(atA.errors, []);
      const initialImage = a.host.outside('/var/lib/xnbd/before');
      const expected = { exportName: 'vm1-vda', sizeBytes, writes, initialImage };
      assert.deepEqual(await differences(a.image('vm1-vda'), expected), []);
    });
  });
});
