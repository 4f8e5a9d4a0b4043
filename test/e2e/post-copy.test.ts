/** Post-copy: the guest runs at the destination, and writes there, while the source still has a part of its memory. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import { logTells, memoryFlows } from '../lab/sites/interrupted-migrations.ts';
import { become, completionTold, emptied, writableOnlyAt } from '../lab/sites/outcome.ts';
import { announced, arrived, guestWithDisks, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';

describe('a migration by post-copy', function () {
  this.timeout(180_000);
  const { sites, it } = useSites({ config: '[relocation]\nretired = delete\n' });
  /** Why it cannot be had on this machine. */
  let missing: string | undefined;

  /** Migrates from a to b so that the guest runs at b, and the memory flows still. @returns what virsh says in the end */
  async function midway(guest: Guest): Promise<{ end: Promise<string> }> {
    const { lab, a, b } = sites();
    await lab.setRate(10);
    const end = guest.migrate(a.host, b.host, '--live', '--postcopy').then(
      () => 'migrated',
      (error: unknown) => (error as Error).message,
    );
    const refused = await Promise.race([end, memoryFlows(a, guest)]);
    if (refused !== undefined) {
      if (/userfault|post-?copy/i.test(refused)) missing = refused;
      throw new Error(refused);
    }
    await a.host.virsh('migrate-postcopy', guest.name);
    await become(b, guest, 'relocating');
    // QEMU is still at a, with the rest of the memory.
    process.kill(await a.host.qemuPid(guest.name), 0);
    await writableOnlyAt(sites(), guest, b);
    return { end };
  }

  beforeEach(function () {
    if (missing === undefined) return;
    console.log(`      skipped: no post-copy here: ${missing}`);
    this.skip();
  });

  it('moves with its disks', async function () {
    const { lab, a, b } = sites();
    const guest = await guestWithDisks(sites(), 'vm1', ['rewrite', 'write-only'], 32);
    await guest.start(a.host);
    await announced(a, guest);
    const events = await a.host.spawn(['virsh', '--quiet', 'event', '--loop', '--event', 'lifecycle']);
    const { end } = await midway(guest).catch((error: unknown) => {
      if (missing === undefined) throw error;
      console.log(`      skipped: no post-copy here: ${missing}`);
      return this.skip();
    });
    await lab.setPortRate(10809, 20);
    assert.equal(await end, 'migrated');
    await guest.progress();
    await events.end();
    assert.match(await readFile(events.log, 'utf8'), /'vm1': Suspended Post-copy/);
    await writableOnlyAt(sites(), guest, b);
    await lab.setRate(undefined);
    await arrived(b, guest);
    await completionTold(sites(), b, guest);
    assert.deepEqual(await wrongBytes(b, guest, await guest.powerOff()), []);
    await emptied(a);
  });

  it("whose destination's QEMU is killed midway: its memory is lost, its disks are there, and it is started there", async () => {
    const { lab, a, b } = sites();
    const guest = await guestWithDisks(sites(), 'vm2', ['rewrite'], 32, 'again');
    await guest.start(a.host);
    await announced(a, guest);
    const xml = await a.host.virsh('dumpxml', '--inactive', guest.name);
    const reports = [await guest.stop()];
    const { end } = await midway(guest);
    process.kill(await b.host.qemuPid(guest.name), 'SIGKILL');
    await lab.setRate(undefined);
    assert.match(await end, /error: /);
    await writableOnlyAt(sites(), guest, b);

    // What is left at a has a part of its memory, and no disk.
    assert.equal(await a.host.virsh('domstate', guest.name), 'paused');
    await assert.rejects(a.host.virsh('resume', guest.name), /error: /);
    // While it holds the disk, nothing of it is given up.
    await a.host.virsh('destroy', guest.name);
    await writeFile(b.host.outside('/run/lab/vm2.xml'), xml);
    await b.host.virsh('define', '/run/lab/vm2.xml');
    await guest.start(b.host);
    await guest.progress();
    await arrived(b, guest);
    reports.push(await guest.powerOff());
    assert.deepEqual(await wrongBytes(b, guest, ...reports), []);
    await logTells(b, /vm2 has arrived: its disks follow/);
    await assert.rejects(a.host.virsh('start', guest.name), /xnbd: disk vm2-vda of vm2 /);
    await emptied(a);
  });
});
