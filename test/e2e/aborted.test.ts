/** A migration that ends midway changes nothing: the guest runs on where it was, and the other host keeps no trace of it. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { interrupted } from '../lab/sites/interrupted-migrations.ts';
import { atWork, runsOn } from '../lab/sites/outcome.ts';
import { arrived, type Signal, signalsOf, startedGuest, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('a migration that does not come to its end', function () {
  this.timeout(180_000);
  const { sites, begin, sure, it } = useSites();
  let guest: Guest;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 32);
  });
  sure(() => atWork(sites(), guest, sites().a));

  /** Interrupts a migration in the middle of the memory, the guest at work, and nothing has happened. @returns what virsh said */
  async function inVain(interrupt: () => Promise<unknown>): Promise<string> {
    const { b } = sites();
    const before = signalsOf(sites(), b, guest).length;
    const said = await interrupted(sites(), guest, async () => {
      await guest.progress();
      await interrupt();
    });
    await runsOn(sites(), guest);
    const { stdout } = await b.host.exec(['xnbdctl', 'list', '--json']);
    assert.deepEqual(JSON.parse(stdout), []);

    const failed = () => signalsOf(sites(), b, guest).slice(before);
    await waitFor('RelocationFailed', () => failed().length === 1);
    const [{ name, rest }] = failed() as [Signal];
    assert.equal(name, 'RelocationFailed');
    assert.match(rest as string, /^libvirt gave the migration up before the guest had arrived$/);
    return said;
  }

  it('aborted with virsh domjobabort', async () => {
    const said = await inVain(() => sites().a.host.virsh('domjobabort', guest.name));
    // Which of the two libvirt says depends on who notices first: the job, or the connection that the job used.
    assert.match(said, /error: operation (aborted|failed): .*migration out/);
  });

  it("whose destination's QEMU is killed", async () => {
    const said = await inVain(async () => process.kill(await sites().b.host.qemuPid(guest.name), 'SIGKILL'));
    assert.match(said, /error: /);
  });

  it('is no hindrance to the next one', async () => {
    const { a, b } = sites();
    const before = signalsOf(sites(), b, guest).length;
    await guest.migrate(a.host, b.host, '--live');
    await guest.progress();
    await arrived(b, guest);
    const reports = await guest.powerOff();
    assert.deepEqual(await wrongBytes(b, guest, reports), []);
    const signals = () =>
      signalsOf(sites(), b, guest)
        .slice(before)
        .map(({ name }) => name);
    await waitFor('RelocationCompleted', () => signals().length === 2);
    assert.deepEqual(signals(), ['RelocationStarted', 'RelocationCompleted']);
  });
});
