/** A destination that cannot take the disks says why, in virsh and before anything has moved; the guest runs on where it was. */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { atWork } from '../lab/sites/outcome.ts';
import { arrived, signalsOf, startedGuest, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const MIB = 1024 * 1024;
const IMAGES = '/var/lib/xnbd/images';

describe('a destination that cannot take the disks', function () {
  this.timeout(180_000);
  const { sites, begin, sure, it } = useSites({
    prepare: ({ b }) => b.exec(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'none', IMAGES]),
  });
  let guest: Guest;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 32);
  });
  sure(() => atWork(sites(), guest, sites().a));

  /** Migrates in vain. @returns what our hook said, which has to be one line. */
  async function refused(): Promise<string> {
    const { a, b } = sites();
    const said = await guest.migrate(a.host, b.host, '--live').then(
      () => assert.fail('vm1 was migrated'),
      (error: unknown) => (error as Error).message,
    );
    const lines = said.split('\n').filter((line) => line.trim() !== '');
    assert.equal(lines.length, 1, said);
    assert.match(said, /error: Hook script execution failed: .* unexpected exit status 1: /);

    assert.deepEqual(await b.leftovers(), []);
    assert.equal((await b.processes()).size, 0);
    assert.equal(await b.host.virsh('list', '--all', '--name'), '');
    assert.equal(await a.host.virsh('domstate', guest.name), 'running');
    for (const { export: disk } of guest.spec.disks) {
      await waitFor(`${disk} to be nobody's`, async () => (await a.status(disk))?.state === 'serving');
    }
    await guest.progress();
    assert.deepEqual(guest.errors, []);
    return said.replace(/.* unexpected exit status 1: /s, '');
  }

  it('for want of room: says how much is needed and how much is free', async () => {
    const said = await refused();
    const match =
      /^xnbd: no room for the disks of vm1: (\d+) bytes needed in (\S+), (\d+) free; make room/.exec(said);
    assert.ok(match, said);
    const [, needed, path, free] = match;
    assert.equal(path, IMAGES);
    // Three quarters of both images are data, and a guest that wrote into holes has added some.
    assert.ok(Number(needed) >= 48 * MIB && Number(needed) <= 64 * MIB, needed);
    assert.ok(Number(free) > 7 * MIB && Number(free) <= 8 * MIB, free);

    const { a, b } = sites();
    assert.deepEqual(
      signalsOf(sites(), b, guest).map(({ name }) => name),
      ['RelocationFailed'],
    );
    assert.match(signalsOf(sites(), b, guest)[0]!.rest as string, /^no room for the disks of vm1/);
    assert.deepEqual(signalsOf(sites(), a, guest), []);
  });

  it('whose daemon is down', async () => {
    const { b } = sites();
    await b.daemon.end('SIGKILL');
    assert.match(
      await refused(),
      /^xnbdd does not answer on \/run\/xnbd\/hook\.sock: systemctl start xnbdd$/,
    );
    await b.startDaemon();
  });

  it('that cannot reach the gateway of the source', async () => {
    const { a } = sites();
    await a.gateway.end();
    assert.match(
      await refused(),
      /^xnbd: disk vm1-vd[ab]: a:10809 cannot be reached: connect ECONNREFUSED \S+; does the origin run, /,
    );
    await a.startGateway();
  });

  it('takes them once it can', async () => {
    const { a, b } = sites();
    await b.host.exec(['mount', '-o', 'remount,size=128m', IMAGES]);
    await guest.migrate(a.host, b.host, '--live');
    await guest.progress();
    await arrived(b, guest);
    assert.deepEqual(await wrongBytes(b, guest, await guest.powerOff()), []);
  });
});
