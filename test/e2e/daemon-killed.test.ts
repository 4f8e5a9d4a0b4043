/** The daemon may die at any time: no request of the guest fails, and the next daemon finds what the last one left, and goes on. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { memoryFlows } from '../lab/sites/interrupted-migrations.ts';
import { atWork, completionTold, emptied, states } from '../lab/sites/outcome.ts';
import { shownByCommand, shownOnBus } from '../lab/sites/shown-exports.ts';
import { announced, arrived, type Site, signalsOf, startedGuest, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const noDaemon =
  /unexpected exit status 1: xnbdd does not answer on \/run\/xnbd\/hook\.sock: systemctl start xnbdd$/;

describe('xnbdd killed with SIGKILL', function () {
  this.timeout(240_000);
  const { sites, begin, sure, it } = useSites({ config: '[relocation]\nretired = delete\n' });
  let guest: Guest;
  /** Where the guest is, and where it goes next. */
  let from: Site;
  let to: Site;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 64);
    from = sites().a;
    to = sites().b;
  });
  sure(() => atWork(sites(), guest, from));

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
  async function migration(): Promise<{ end: Promise<unknown> }> {
    await sites().lab.setRate(10);
    const end = guest.migrate(from.host, to.host, '--live', '--persistent', '--undefinesource');
    end.catch(() => undefined);
    await memoryFlows(from, guest);
    assert.deepEqual(await states(to, guest), ['standby', 'standby']);
    return { end };
  }

  /** What is signalled at the destination from now on. */
  function newSignals(): () => string[] {
    const [site, since] = [to, signalsOf(sites(), to, guest).length];
    return () =>
      signalsOf(sites(), site, guest)
        .slice(since)
        .map(({ name }) => name);
  }

  it('where the guest runs, once while libvirtd is killed too', async () => {
    const { host } = from;
    await replaceDaemon(from);
    // libvirtd's `reconnect` hook runs without the daemon.
    await replaceDaemon(from, async () => {
      await host.stopLibvirtd('SIGKILL');
      await host.startLibvirtd();
      await waitFor(
        'libvirtd to know the guest',
        async () => (await host.virsh('domstate', guest.name)) === 'running',
      );
      await guest.progress(5);
    });
  });

  it('at the destination while the memory is copied, while the disks follow, and before they are complete', async () => {
    const { lab } = sites();
    const signals = newSignals();
    const { end } = await migration();
    await replaceDaemon(to);
    assert.deepEqual(await states(to, guest), ['standby', 'standby']);
    // Here the hooks `stopped` and `release` run without it.
    await kill(from);
    // What is left of the memory goes at once, the disks slowly.
    await lab.setPortRate(10809, 8);
    await end;
    await replaceDaemon(to);
    assert.deepEqual(await states(to, guest), ['relocating', 'relocating']);
    await kill(to);
    await lab.setRate(undefined);
    await arrived(to, guest);
    assert.deepEqual(signals(), ['RelocationStarted']);

    await to.startDaemon();
    await completionTold(sites(), to, guest);
    await announced(to, guest);
    await from.startDaemon();
    await emptied(from);
    assert.deepEqual(await wrongBytes(to, guest, await guest.stop()), []);
    await guest.go();
    [from, to] = [to, from];
  });

  it('at both ends before the guest arrives, and not there again until its disks are complete', async () => {
    const signals = newSignals();
    const { end } = await migration();
    await kill(from);
    await kill(to);
    await sites().lab.setRate(undefined);
    await end;
    await arrived(to, guest);
    assert.deepEqual(signals(), []);

    await to.startDaemon();
    await completionTold(sites(), to, guest);
    await announced(to, guest);
    await from.startDaemon();
    await emptied(from);
    [from, to] = [to, from];
  });

  it('when its guest ends: virsh tells who wants to start it, and the next daemon ends the exports', async () => {
    await kill(from);
    assert.deepEqual(await wrongBytes(from, guest, await guest.powerOff()), []);
    await waitFor(
      'the guest to be off',
      async () => (await from.host.virsh('domstate', guest.name)) === 'shut off',
    );
    await assert.rejects(from.host.virsh('start', guest.name), noDaemon);
    await from.startDaemon();
    await waitFor('the end of the exports', async () => (await from.processes()).size === 0, 60_000);
    assert.deepEqual(await shownOnBus(from.host), {});
  });
});
