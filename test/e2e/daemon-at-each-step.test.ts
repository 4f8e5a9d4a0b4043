/**
 * A daemon is killed at each step of a migration, the source's or the destination's, and another is started when the migration is over, or
 * where it cannot go on without one. Either the guest arrives with its disk, or it runs on where it was, and the other host keeps nothing.
 *
 * Steps are held, not timed: hooks by a gate before ours, or by a daemon that is frozen while the hook waits for its answer; the memory by
 * a slow link; the disk by a slow gateway; what comes at the end by a guest that rests, a daemon or a gateway that is frozen.
 */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import type { Running } from '../lab/processes.ts';
import { type Gate, installGates, killInHook, shutGate } from '../lab/sites/hook-gate.ts';
import { memoryFlows, newLinesOf } from '../lab/sites/interrupted-migrations.ts';
import {
  atWork,
  become,
  completionTold,
  emptied,
  runsOnAt,
  states,
  writableOnlyAt,
} from '../lab/sites/outcome.ts';
import { announced, arrived, guestWithDisks, type Site, signalsOf, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('xnbdd killed at each step of a migration', function () {
  this.timeout(180_000);
  const { sites, begin, sure, it } = useSites({
    config: '[relocation]\nretired = delete\nprepare-timeout = 5\n',
    prepare: installGates,
  });
  let guest: Guest;
  /** Where the guest is, and where it goes next. */
  let from: Site;
  let to: Site;

  begin(async () => {
    guest = await guestWithDisks(sites(), 'vm1', ['rewrite'], 16);
    from = sites().a;
    to = sites().b;
    await guest.start(from.host);
    await announced(from, guest);
  });
  sure(async () => {
    await atWork(sites(), guest, from);
    await emptied(to);
  });

  const signal = ({ pid }: Running, name: NodeJS.Signals) => process.kill(pid, name);
  const kill = ({ daemon }: Site) => daemon.end('SIGKILL');

  /** Begins a migration; its end is what virsh said. */
  function migration(): Promise<string> {
    return guest.migrate(from.host, to.host, '--live', '--persistent', '--undefinesource').then(
      () => 'migrated',
      (error: unknown) => (error as Error).message,
    );
  }

  /** Migrates, held before a hook until `meanwhile` has let it pass. @returns what virsh said */
  async function heldAt(site: Site, op: string, meanwhile: (gate: Gate) => Promise<void>): Promise<string> {
    const gate = await shutGate(site.host, op);
    const end = migration();
    await gate.reached();
    await meanwhile(gate);
    await gate.open();
    return await end;
  }

  /** Migrates, held while the memory flows. The rest of it goes at once. @returns what virsh said */
  async function heldInMemory(meanwhile: () => Promise<unknown>): Promise<string> {
    await sites().lab.setRate(10);
    const end = migration();
    await memoryFlows(from, guest);
    assert.deepEqual(await states(from, guest), ['lent']);
    assert.deepEqual(await states(to, guest), ['standby']);
    await writableOnlyAt(sites(), guest, from);
    await meanwhile();
    await sites().lab.setRate(undefined);
    return await end;
  }

  /** Migrates, and holds the disk while it follows. */
  async function heldWhileItFollows(meanwhile: () => Promise<unknown>): Promise<string> {
    await sites().lab.setPortRate(10809, 4);
    const said = await migration();
    assert.deepEqual(await states(from, guest), ['fenced']);
    assert.deepEqual(await states(to, guest), ['relocating']);
    await writableOnlyAt(sites(), guest, to);
    await meanwhile();
    await sites().lab.setRate(undefined);
    return said;
  }

  /** Migrates a guest that rests, and holds its disk when every block is there: its origin is kept until the daemon hears that it runs. */
  async function heldBeforeCompletion(meanwhile: () => Promise<unknown>): Promise<string> {
    await guest.stop();
    const said = await heldInMemory(() => Promise.resolve(signal(to.daemon, 'SIGSTOP')));
    const whole = async () => {
      const status = await to.status('vm1-vda');
      return status?.state === 'relocating' && status.presentBytes === status.sizeBytes;
    };
    await waitFor('every block to be there', whole);
    assert.deepEqual(await states(from, guest), ['fenced']);
    await meanwhile();
    await guest.go();
    return said;
  }

  async function bothRun(): Promise<void> {
    for (const site of [from, to]) if (site.daemon.process.signalCode !== null) await site.startDaemon();
  }

  async function right(site: Site): Promise<void> {
    assert.deepEqual(await wrongBytes(site, guest, await guest.stop()), []);
    await guest.go();
  }

  /** It has arrived, all of it, and the other host keeps nothing. It will go back next. */
  function arrives(title: string, how: () => Promise<string>): void {
    it(title, async () => {
      const told = signalsOf(sites(), to, guest).length;
      const { daemon } = to;
      const [there, here] = [await newLinesOf(to), await newLinesOf(from)];
      assert.equal(await how(), 'migrated');
      // It is there, and goes back next, whatever is found wrong now.
      [from, to] = [to, from];
      await guest.progress(3);
      await bothRun();
      await arrived(from, guest);
      await writableOnlyAt(sites(), guest, from);
      await completionTold(sites(), from, guest, told, from.daemon === daemon ? 1 : 2);
      await there(/disk vm1-vda of vm1 is here completely: /);
      await emptied(to);
      // One that was killed while it deleted the image leaves the word to the next, which finds none.
      await here(/disk vm1-vda has moved away completely; /);
      await right(from);
      await announced(from, guest);
    });
  }

  /** virsh says why, the guest runs on where it is, and the other host keeps nothing. */
  function runsOn(title: string, why: RegExp, how: () => Promise<string>): void {
    it(title, async () => {
      const there = await newLinesOf(to);
      assert.match(await how(), why);
      await writableOnlyAt(sites(), guest, from);
      await bothRun();
      await runsOnAt(sites(), guest, from, to);
      await there(/the move of vm1 is given up: libvirt /);
      await right(from);
    });
  }

  const noDaemon = /xnbdd does not answer on \/run\/xnbd\/hook\.sock: systemctl start xnbdd/;
  const endedMidway = /xnbdd (ended while this hook waited|does not answer) on \/run\/xnbd\/hook\.sock/;

  runsOn("the destination's, in `migrate`, while it asks the source", endedMidway, async () => {
    signal(from.gateway, 'SIGSTOP');
    try {
      const end = migration();
      await waitFor('an export of the destination', async () => (await to.processes()).size > 0);
      await kill(to);
      return await end;
    } finally {
      signal(from.gateway, 'SIGCONT');
    }
  });
  runsOn("the destination's, before `prepare`", noDaemon, () => heldAt(to, 'prepare', () => kill(to)));
  runsOn("the destination's, in `prepare`", endedMidway, () =>
    heldAt(to, 'prepare', (gate) => killInHook(to, gate)),
  );
  runsOn("the destination's, while the memory flows, and the migration is aborted", /error: /, () =>
    heldInMemory(async () => {
      await kill(to);
      await from.host.virsh('domjobabort', guest.name);
    }),
  );
  for (const op of ['start', 'started'])
    arrives(`the destination's, in \`${op}\``, () => heldAt(to, op, (gate) => killInHook(to, gate)));
  arrives("the destination's, while the memory flows", () => heldInMemory(() => kill(to)));
  arrives("the destination's, while the disk follows", () => heldWhileItFollows(() => kill(to)));
  arrives("the destination's, when every block is there", () =>
    heldBeforeCompletion(async () => {
      await kill(to);
      // The next one asks libvirt, and finds that the guest runs.
      await to.startDaemon();
      await become(to, guest, 'serving');
    }),
  );
  arrives("the destination's, when the source does not hear that it may let go", () =>
    heldBeforeCompletion(async () => {
      signal(from.gateway, 'SIGSTOP');
      signal(to.daemon, 'SIGCONT');
      const complete = async () => {
        const status = await to.status('vm1-vda');
        return status?.state === 'serving' && status.origin !== null;
      };
      await waitFor('the disk to be complete', complete);
      await kill(to);
      signal(from.gateway, 'SIGCONT');
    }),
  );

  for (const op of ['migrate', 'prepare', 'start', 'started'])
    arrives(`the source's, when the destination comes to \`${op}\``, () => heldAt(to, op, () => kill(from)));
  arrives("the source's, while the memory flows", () => heldInMemory(() => kill(from)));
  for (const op of ['stopped', 'release'])
    arrives(`the source's, in \`${op}\``, () => heldAt(from, op, (gate) => killInHook(from, gate)));
  arrives("the source's, while the disk follows", () => heldWhileItFollows(() => kill(from)));
  arrives("the source's, when every block is at the destination", () =>
    heldBeforeCompletion(async () => {
      await kill(from);
      signal(to.daemon, 'SIGCONT');
    }),
  );
  arrives("the source's, when its disk is retired and is to be deleted", () =>
    heldWhileItFollows(async () => {
      signal(from.daemon, 'SIGSTOP');
      await sites().lab.setRate(undefined);
      await waitFor('the origin to be retired', async () => (await states(from, guest))[0] === 'retired');
      await kill(from);
      assert.notDeepEqual(await from.leftovers(), []);
    }),
  );
});
