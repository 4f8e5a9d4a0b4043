/** The daemon may die at any time: no request of the guest fails, and the next daemon finds what the last one left, and goes on. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.ts';
import { waitFor } from '../lab/processes.ts';
import { shownByCommand, shownOnBus } from './shown.ts';
import { announced, arrived, guestWithDisks, type Site, signalsOf, useSites, wrongBytes } from './sites.ts';

const noDaemon =
  /unexpected exit status 1: xnbdd does not answer on \/run\/xnbd\/hook\.sock: systemctl start xnbdd$/;

describe('xnbdd killed with SIGKILL', function () {
  this.timeout(240_000);
  const sites = useSites({ config: '[relocation]\nretired = delete\n' });
  let guest: Guest;

  before(async () => {
    guest = await guestWithDisks(sites(), 'vm1', ['rewrite', 'write-only'], 64);
    await guest.start(sites().a.host);
    await announced(sites().a, guest);
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
    await waitFor('the memory to flow', async () =>
      /Memory processed: +[1-9]/.test(await from.host.virsh('domjobinfo', guest.name)),
    );
    assert.deepEqual(await states(to), ['standby', 'standby']);
    return { end };
  }

  const states = (site: Site): Promise<unknown[]> =>
    Promise.all(guest.spec.disks.map(async (disk) => (await site.status(disk.export))?.state));

  const signals = (site: Site): string[] => signalsOf(sites(), site, guest).map(({ name }) => name);

  /** The completion has been told once, and nothing after it; some time has passed. */
  async function toldOnce(site: Site): Promise<void> {
    await waitFor('RelocationCompleted', () => signals(site).includes('RelocationCompleted'));
    await guest.progress();
    assert.equal(
      signals(site).indexOf('RelocationCompleted'),
      signals(site).length - 1,
      signals(site).join(),
    );
  }

  /** What a disk leaves at its origin goes, even if nobody was there when it ended. */
  async function cleared(site: Site): Promise<void> {
    await waitFor(
      `nothing to be left on ${site.host.name}`,
      async () => (await site.leftovers()).length === 0,
    );
    await waitFor(
      `the end of the exports on ${site.host.name}`,
      async () => (await site.processes()).size === 0,
    );
  }

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
    assert.deepEqual(await states(b), ['standby', 'standby']);
    // Here the hooks `stopped` and `release` run without it.
    await kill(a);
    await lab.setRate(100);
    await end;
    await lab.setRate(50);
    await replaceDaemon(b);
    assert.deepEqual(await states(b), ['relocating', 'relocating']);
    await kill(b);
    await lab.setRate(undefined);
    await arrived(b, guest);
    assert.deepEqual(signals(b), ['RelocationStarted']);

    await b.startDaemon();
    await toldOnce(b);
    await announced(b, guest);
    await a.startDaemon();
    await cleared(a);
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
    await toldOnce(a);
    await announced(a, guest);
    await b.startDaemon();
    await cleared(b);
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
