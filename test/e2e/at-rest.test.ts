/** Guests that start and end where they are: no disk is served to nobody, and the next start finds every byte. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import type { DiskReport } from '../lab/libvirt/guest-reports.ts';
import { installGates, shutGate } from '../lab/sites/hook-gate.ts';
import { logTells } from '../lab/sites/interrupted-migrations.ts';
import { states, unused, writableOnlyAt } from '../lab/sites/outcome.ts';
import { guestWithDisks, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('a guest that starts and ends where it is', function () {
  this.timeout(240_000);
  const { sites, begin, sure, it } = useSites({ prepare: installGates });
  let guest: Guest;
  const reports: Map<string, DiskReport>[] = [];

  begin(async () => {
    reports.length = 0;
    guest = await guestWithDisks(sites(), 'vm1', ['rewrite', 'write-only'], 16, 'again');
  });

  sure(async () => {
    const { daemon, host } = sites().a;
    assert.ok(daemon.process.exitCode === null && daemon.process.signalCode === null, 'xnbdd of a has ended');
    assert.equal(await host.virsh('domstate', guest.name), 'shut off');
  });

  /** Nobody uses the disks, no process serves them, and nothing was given away. */
  async function atRest(): Promise<void> {
    const { a, b } = sites();
    const off = async () => (await a.host.virsh('domstate', guest.name)) === 'shut off';
    await waitFor('the guest to be off', off);
    await waitFor('the end of its exports', async () => (await a.processes()).size === 0, 60_000);
    await unused(a);
    assert.deepEqual(await states(a, guest), ['serving', 'serving']);
    await writableOnlyAt(sites(), guest, a);
    assert.deepEqual((await a.leftovers()).sort(), ['vm1-vda', 'vm1-vda.img', 'vm1-vdb', 'vm1-vdb.img']);
    assert.deepEqual(await b.leftovers(), []);
    assert.deepEqual(await wrongBytes(a, guest, ...reports), []);
  }

  const WAYS: [string, () => Promise<unknown>][] = [
    ['is switched off from inside', async () => reports.push(await guest.powerOff())],
    [
      'is destroyed',
      async () => {
        reports.push(await guest.stop());
        await sites().a.host.virsh('destroy', guest.name);
      },
    ],
    [
      'loses its QEMU',
      async () => {
        reports.push(await guest.stop());
        process.kill(await sites().a.host.qemuPid(guest.name), 'SIGKILL');
      },
    ],
  ];
  for (const [way, how] of WAYS)
    it(`${way}: its exports end, and nothing is lost`, async () => {
      const { a } = sites();
      await guest.start(a.host);
      await guest.progress(3);
      assert.deepEqual(await states(a, guest), ['serving', 'serving']);
      await how();
      await atRest();
      await logTells(a, /vm1 starts: its disks are served \(vm1-vda, vm1-vdb\)/);
      await logTells(a, /disk vm1-vda is no longer in use: its export has ended/);
    });

  it('is saved: its exports end; and restored: it goes on where it was', async () => {
    const { a } = sites();
    await guest.start(a.host);
    await guest.progress(3);
    reports.push(await guest.stop());
    await a.host.virsh('save', guest.name, '/run/lab/saved');
    await atRest();
    await a.host.virsh('restore', '/run/lab/saved');
    assert.deepEqual(await states(a, guest), ['serving', 'serving']);
    await guest.go();
    await guest.progress(3);
    reports.push(await guest.powerOff());
    await atRest();
  });

  it('runs: a domain that was copied from it does not start on its disks, and does when it has ended', async () => {
    const { a } = sites();
    await guest.start(a.host);
    await guest.progress(3);
    const xml = await a.host.virsh('dumpxml', '--inactive', guest.name);
    const copied = xml
      .replace('<name>vm1</name>', '<name>copy</name>')
      .replace(/<uuid>.*<\/uuid>/, `<uuid>${randomUUID()}</uuid>`)
      // These belong to the guest itself, not to what it has in common with a copy.
      .replaceAll(/<(serial|console) [\s\S]*?<\/\1>/g, '');
    await writeFile(a.host.outside('/run/lab/copy.xml'), copied);
    await a.host.virsh('define', '/run/lab/copy.xml');
    await assert.rejects(
      a.host.virsh('start', 'copy'),
      /disk vm1-vda of copy is a disk of vm1, which runs here: shut vm1 off first/,
    );
    await guest.progress(3);
    reports.push(await guest.powerOff());
    await atRest();
    await a.host.virsh('start', 'copy');
    assert.deepEqual(await states(a, guest), ['serving', 'serving']);
    await a.host.virsh('destroy', 'copy');
    await a.host.virsh('undefine', 'copy');
    await waitFor('the end of its exports', async () => (await a.processes()).size === 0, 60_000);
  });

  it('finds nobody on its sockets: it does not start, and the next time it does', async () => {
    const { a } = sites();
    const gate = await shutGate(a.host, 'start');
    const start = assert.rejects(a.host.virsh('start', guest.name), /vm1-vd[ab]\.sock/);
    await gate.reached();
    // Between `prepare` and QEMU; a daemon that lives would start the exports again.
    await a.daemon.end('SIGKILL');
    for (const pid of (await a.processes()).keys()) process.kill(pid, 'SIGKILL');
    await gate.open();
    await start;
    await a.startDaemon();
    await waitFor('the end of its exports', async () => (await a.processes()).size === 0, 120_000);
    await atRest();
    await guest.start(a.host);
    await guest.progress(3);
    reports.push(await guest.powerOff());
    await atRest();
  });
});
