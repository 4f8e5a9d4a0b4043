/** The export of a disk dies under a guest that writes. The daemon starts it again, and the guest goes on by itself, with no error in it. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { newRecord, writeRecord } from '../../src/store/records/record.ts';
import type { GuestDisk } from '../lab/libvirt/domain-xml.ts';
import { defineGuest, type Guest } from '../lab/libvirt/guest.ts';
import { createPatternImage } from '../lab/libvirt/pattern.ts';
import type { Running } from '../lab/processes.ts';
import { logOf } from '../lab/sites/interrupted-migrations.ts';
import { wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const SIZE = 32 * 1024 * 1024;
/** Long enough for a daemon that wants to resume a guest. */
const WHILE_MS = 4000;
/** The daemon starts an export at once that has run for ten seconds, and others later and later. */
const STEADY_MS = 11_000;

describe('a guest whose export dies', function () {
  this.timeout(300_000);
  const { sites, it } = useSites();

  async function guestWith(name: string, ...away: GuestDisk['away'][]): Promise<Guest> {
    const { lab, a } = sites();
    const disks = away.map((each, index) => {
      const target = `vd${'abcd'[index]}`;
      return { target, export: `${name}-${target}`, mode: 'rewrite' as const, away: each ?? 'report' };
    });
    for (const { export: disk } of disks) {
      await createPatternImage(a.image(disk), disk, SIZE);
      const record = newRecord(disk, `/var/lib/xnbd/images/${disk}.img`, SIZE);
      await writeRecord(a.host.outside(`/var/lib/xnbd/exports/${disk}`), record);
    }
    return defineGuest(lab, a.host, { name, disks });
  }

  const stateOf = (guest: Guest): Promise<string> => sites().a.host.virsh('domstate', '--reason', guest.name);

  /** Kills the export of one of the guest's disks, and waits until another process serves it. */
  async function dieAndReturn(guest: Guest, index = 0): Promise<void> {
    const { a } = sites();
    const disk = guest.spec.disks[index]!.export;
    const { pid } = (await a.status(disk))!;
    process.kill(pid, 'SIGKILL');
    await waitFor(`${disk} to be served again`, async () => {
      const status = await a.status(disk);
      return status !== undefined && status.pid !== pid;
    });
  }

  /**
   * Kills the export of each disk in turn.
   * @returns the milliseconds from each return of an export until the guest has written to it again
   */
  async function diesAndGoesOn(guest: Guest, times: number): Promise<number[]> {
    const { disks } = guest.spec;
    const returned = disks.map(() => Number.NEGATIVE_INFINITY);
    const after: number[] = [];
    for (let round = 0; round < times; round++) {
      const index = round % disks.length;
      await sleep(Math.max(0, returned[index]! + STEADY_MS - performance.now()));
      await dieAndReturn(guest, index);
      returned[index] = performance.now();
      await guest.progress(1, 60_000, [disks[index]!.target]).catch(async (error: unknown) => {
        throw new Error(`round ${round}: the guest is ${await stateOf(guest)}: ${(error as Error).message}`);
      });
      after.push(Math.round(performance.now() - returned[index]));
      assert.deepEqual(guest.errors, []);
    }
    return after;
  }

  async function endsWhole(guest: Guest): Promise<void> {
    const reports = await guest.powerOff();
    for (const { errors } of reports.values()) assert.equal(errors, 0);
    assert.deepEqual(await wrongBytes(sites().a, guest, reports), []);
  }

  it('goes on by itself, twenty times', async () => {
    const guest = await guestWith('stopped', 'stop', 'stop', 'stop', 'stop');
    await guest.start(sites().a.host);
    await guest.progress();
    const after = await diesAndGoesOn(guest, 20);
    assert.match(await logOf(sites().a), /stopped goes on: it had been stopped while stopped-vda was away/);
    console.log(`      the guest wrote again, ms after the return of its export: ${after.join(' ')}`);
    await endsWhole(guest);
  });

  it('notices nothing where libvirt has QEMU wait, three times', async function () {
    const { host } = sites().a;
    const guest = await guestWith('waits', 'wait');
    if (!(await host.virsh('dumpxml', guest.name)).includes("<reconnect delay='10'/>")) {
      console.log('      skipped: this libvirt does not keep <reconnect>');
      this.skip();
    }
    await guest.start(host);
    await guest.progress();
    await diesAndGoesOn(guest, 3);
    await endsWhole(guest);
    assert.doesNotMatch(await logOf(sites().a), /waits goes on: it had been stopped/);
  });

  it('stays paused when an administrator has paused it', async () => {
    const { host } = sites().a;
    const guest = await guestWith('paused', 'stop');
    await guest.start(host);
    await guest.progress();
    await host.virsh('suspend', guest.name);
    await dieAndReturn(guest);
    await sleep(WHILE_MS);
    assert.equal(await stateOf(guest), 'paused (user)');
    await host.virsh('resume', guest.name);
    await guest.progress();
    await endsWhole(guest);
  });

  it('stays paused when a disk that is none of ours has errors, too', async () => {
    const { a } = sites();
    const guest = await guestWith('foreign', 'stop', 'stop');
    const socket = '/run/lab/foreign.sock';
    const xml = await a.host.virsh('dumpxml', '--inactive', guest.name);
    await writeFile(a.host.outside('/run/lab/edited.xml'), xml.replace('/run/xnbd/foreign-vdb.sock', socket));
    await a.host.virsh('define', '/run/lab/edited.xml');
    const serve = (): Promise<Running> => {
      const image = '/var/lib/xnbd/images/foreign-vdb.img';
      const argv = ['-f', 'raw', '-t', '-x', 'foreign-vdb', '-k', socket, '--cache=none', image];
      return a.host.spawn(['qemu-nbd', ...argv]);
    };
    const server = await serve();
    await waitFor(
      'qemu-nbd',
      async () => (await a.host.exec(['test', '-S', socket], { check: false })).code === 0,
    );
    await guest.start(a.host);
    await guest.progress();
    await server.end('SIGKILL');
    await waitFor('the guest to be stopped', async () => (await stateOf(guest)) === 'paused (I/O error)');
    await dieAndReturn(guest);
    await sleep(WHILE_MS);
    assert.equal(await stateOf(guest), 'paused (I/O error)');

    await serve();
    await waitFor('the guest to go on', async () => {
      await a.host.exec(['virsh', '--quiet', 'resume', guest.name], { check: false });
      await sleep(500);
      return (await stateOf(guest)).startsWith('running');
    });
    await guest.progress();
    await endsWhole(guest);
  });
});
