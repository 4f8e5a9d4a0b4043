/** A host that the gateway lets in wants a disk that no migration brings to it, while its guest runs on. */
import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import { logTells } from '../lab/sites/interrupted-migrations.ts';
import { atWork } from '../lab/sites/outcome.ts';
import { arrived, startedGuest, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const PROXY = [
  'xnbd-export',
  'proxy',
  'vm1-vda',
  '--image',
  '/run/lab/stolen.img',
  '--socket',
  '/run/lab/stolen.sock',
];

describe('a peer that wants a disk which nobody migrates', function () {
  this.timeout(240_000);
  const { sites, begin, sure, it } = useSites();
  let guest: Guest;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite'], 32);
  });
  sure(() => atWork(sites(), guest, sites().a));

  it('is refused, and the guest notices nothing', async () => {
    const { a, b } = sites();
    const thief = await b.host.spawn([...PROXY, '--origin', 'nbd://a:10809/vm1-vda', '--takeover', 'now']);
    await waitFor('the disk to be lent', async () => (await a.status('vm1-vda'))?.state === 'lent');
    await guest.progress();
    await logTells(a, /wants to take the disk over, and its guest runs on here: .*refused/, 'vm1-vda');
    thief.process.kill();
    await waitFor('the lease to end', async () => (await a.status('vm1-vda'))?.state === 'serving');
    await guest.progress();
  });

  it('cannot write to it either', async () => {
    const { a, b } = sites();
    const image = await stat(a.image('vm1-vda'));
    const write = ['qemu-io', '-f', 'raw', '-c', 'write 0 4096', 'nbd://a:10809/vm1-vda'];
    assert.match((await b.host.exec(write, { check: false })).stderr, /Permission denied|read-only/);
    assert.equal((await stat(a.image('vm1-vda'))).size, image.size);
    await guest.progress();
  });

  it('a migration of the same guest takes it over without a wait', async () => {
    const { a, b } = sites();
    await guest.migrate(a.host, b.host, '--live', '--persistent');
    await guest.progress();
    await arrived(b, guest);
    assert.deepEqual(await wrongBytes(b, guest, await guest.powerOff()), []);
  });
});
