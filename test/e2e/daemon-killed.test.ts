/** The daemon may die at any time: no request of the guest fails, and the next daemon finds what the last one left, and goes on. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { waitFor } from '../lab/libvirt/processes.ts';
import { memoryFlows } from '../lab/sites/interrupted-migrations.ts';
import { completionTold, emptied, states } from '../lab/sites/outcome.ts';
import { shownByCommand, shownOnBus } from '../lab/sites/shown-exports.ts';
import {
  announced,
  arrived,
  type Site,
  signalsOf,
  startedGuest,
  useSites,
  wrongBytes,
} from '../lab/sites/sites.ts';

const noDaemon =
  /unexpected exit status 1: xnbdd does not answer on \/run\/xnbd\/hook\.sock: systemctl start xnbdd$/;

describe('xnbdd killed with SIGKILL', function () {
  this.timeout(240_000);
  const sites = useSites({ config: '[relocation]\nretired = delete\n' });
  let guest: Guest;

  before(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 64);
  });

  /** Kills a site's daemon; the guest goes on without it. */
  async function kill({ daemon }: Site): Promise<void> {
    await daemon.end('SIGKILL');
    await guest.progress(5);
  }

  /** Kills a site's daemon, then has `meanwhile` done; the next daemon shows the same exports, of the same processes. */
  async function replaceDaemon(site: Site, meanwhile?: () => Promise<void>): Promise<void> {
    const before = await shownByCommand(site.host);
    assert.deepEqual(Object.keys(before), ['vm1-vda', 'vm1-vdb']);
    assert.deepEqual(await shownOnBus(site.host), before);
    await kill(site);
    await meanwhile?.();
    assert.deepEqual(await shownByCommand(site.host), before);
    await site.startDaemon();
    assert.deepEqual(await shownOnBus(site.host), before);
    await guest.progress(5);
    assert.deepEqual(guest.errors, []);
  }

  /** Begins a migration over a slow link. @returns its end, when its memory is being copied */
  async function begin(from: Site, to: Site): Promise<{ end: Promise<unknown> }> {
    await sites().lab.setRate(10);
    const end = guest.migrate(from.host, to.host, '--live', '--persistent', '--undefinesource');
    end.catch(() => undefined);
    await memoryFlows(from, guest);
    assert.deepEqual(await states(to, guest), ['standby', 'standby']);
    return { end };
  }

  const signals = (site: Site): string[] => signalsOf(sites(), site, guest).map(({ name }) => name);

  it('where the guest runs, once while libvirtd is killed too', async () => {
    const { a } = sites();
    await replaceDaemon(a);
    // libvirtd's `reconnect` hook runs without the daemon.
    await replaceDaemon(a, async () => {
      await a.host.stopLibvirtd('SIGKILL');
      await a.host.startLibvirtd();
      await waitFor(
        'libvirtd to know the guest',
        async () => (await a.host.virsh('domstate', guest.name)) === 'running',
      );
      await guest.progress(5);
    });
  });

  it('at the destination while the memory is copied, while the disks follow, and before they are complete', async () => {
    const { lab, a, b } = sites();
    const { end } = await begin(a, b);
    await replaceDaemon(b);
    assert.deepEqual(await states(b, guest), ['standby', 'standby']);
    // Here the hooks `stopped` and `release` run without it.
    await kill(a);
    // What is left of the memory goes at once, the disks slowly.
    await lab.setPortRate(10809, 8);
    await end;
    await replaceDaemon(b);
    assert.deepEqual(await states(b, guest), ['relocating', 'relocating']);
    await kill(b);
    await lab.setRate(undefined);
    await arrived(b, guest);
    assert.deepEqual(signals(b), ['RelocationStarted']);

    await b.startDaemon();
    await completionTold(sites(), b, guest);
    await announced(b, guest);
    await a.startDaemon();
    await emptied(a);
    assert.deepEqual(await wrongBytes(b, guest, await guest.stop()), []);
    await guest.go();
  });

  it('at both ends before the guest arrives, and not there again until its disks are complete', async () => {
    const { lab, a, b } = sites();
    const { end } = await begin(b, a);
    await kill(a);
    await kill(b);
    await lab.setRate(undefined);
    await end;
    await arrived(a, guest);
    assert.deepEqual(signals(a), []);

    await a.startDaemon();
    await completionTold(sites(), a, guest);
    await announced(a, guest);
    await b.startDaemon();
    await emptied(b);
    assert.deepEqual(signals(b), ['RelocationStarted', 'RelocationCompleted']);
  });

  it('when its guest ends: virsh tells who wants to start it, and the next daemon ends the exports', async () => {
    const { a } = sites();
    await kill(a);
    assert.deepEqual(await wrongBytes(a, guest, await guest.powerOff()), []);
    await waitFor(
      'the guest to be off',
      async () => (await a.host.virsh('domstate', guest.name)) === 'shut off',
    );
    await assert.rejects(a.host.virsh('start', guest.name), noDaemon);
    await a.startDaemon();
    await waitFor('the end of the exports', async () => (await a.processes()).size === 0, 60_000);
    assert.deepEqual(await shownOnBus(a.host), {});
  });
});
