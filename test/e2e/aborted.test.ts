/** A migration that ends midway changes nothing: the guest runs on where it was, and the other host keeps no trace of it. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { waitFor } from '../lab/libvirt/processes.ts';
import { interrupted } from '../lab/sites/interrupted-migrations.ts';
import { runsOn } from '../lab/sites/outcome.ts';
import { arrived, signalsOf, startedGuest, useSites, wrongBytes } from '../lab/sites/sites.ts';

describe('a migration that does not come to its end', function () {
  this.timeout(180_000);
  const sites = useSites();
  let guest: Guest;

  before(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 32);
  });

  /** Interrupts a migration in the middle of the memory, the guest at work; what virsh said. */
  const interruptedAtWork = (interrupt: () => Promise<unknown>): Promise<string> =>
    interrupted(sites(), guest, async () => {
      await guest.progress();
      await interrupt();
    });

  async function nothingHasHappened(failures: number): Promise<void> {
    const { b } = sites();
    await runsOn(sites(), guest);
    const { stdout } = await b.host.exec(['xnbdctl', 'list', '--json']);
    assert.deepEqual(JSON.parse(stdout), []);

    const failed = () => signalsOf(sites(), b, guest);
    await waitFor('RelocationFailed', () => failed().length === failures);
    for (const { name, rest } of failed()) {
      assert.equal(name, 'RelocationFailed');
      assert.match(rest as string, /^libvirt gave the migration up before the guest had arrived$/);
    }
  }

  it('aborted with virsh domjobabort', async () => {
    const said = await interruptedAtWork(() => sites().a.host.virsh('domjobabort', guest.name));
    // Which of the two libvirt says depends on who notices first: the job, or the connection that the job used.
    assert.match(said, /error: operation (aborted|failed): .*migration out/);
    await nothingHasHappened(1);
  });

  it("whose destination's QEMU is killed", async () => {
    const said = await interruptedAtWork(async () =>
      process.kill(await sites().b.host.qemuPid(guest.name), 'SIGKILL'),
    );
    assert.match(said, /error: /);
    await nothingHasHappened(2);
  });

  it('is no hindrance to the next one', async () => {
    const { a, b } = sites();
    await guest.migrate(a.host, b.host, '--live');
    await guest.progress();
    await arrived(b, guest);
    const reports = await guest.powerOff();
    assert.deepEqual(await wrongBytes(b, guest, reports), []);
    await waitFor('RelocationCompleted', () => signalsOf(sites(), b, guest).length === 4);
    assert.deepEqual(
      signalsOf(sites(), b, guest).map(({ name }) => name),
      ['RelocationFailed', 'RelocationFailed', 'RelocationStarted', 'RelocationCompleted'],
    );
  });
});
