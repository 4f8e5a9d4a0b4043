/** The lab tells a guest that its emulation has lost from one that waits for a disk (../lab/libvirt/standstill.ts). */
import assert from 'node:assert/strict';
import type { Guest } from '../lab/libvirt/guest.ts';
import { whyItStands } from '../lab/libvirt/standstill.ts';
import { startedGuest } from '../lab/sites/sites.ts';
import { freezeCpu, freezeExport } from '../lab/sites/standstills.ts';
import { useSites } from '../lab/sites/use-sites.ts';

describe('a guest that stands still', function () {
  this.timeout(120_000);
  const { sites, begin, it } = useSites();
  let guest: Guest;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 16);
  });

  const verdict = async (lookEveryMs = 800) =>
    (await whyItStands(guest, lookEveryMs)) ?? { faultOf: 'nobody', what: '' };

  it('is none while it works, or rests because it was told to', async () => {
    assert.equal((await verdict(2000)).faultOf, 'nobody');
    await guest.stop();
    assert.equal((await verdict(2000)).faultOf, 'nobody');
    await guest.go();
  });

  it('whose virtual CPU stands still, no request being under way, is lost by TCG', async () => {
    const thaw = await freezeCpu(sites(), guest);
    const { faultOf, what } = await verdict();
    thaw();
    assert.equal(faultOf, 'TCG');
    assert.match(what, /^the heartbeat of vm1 stands still at \d+, and no request is under way$/);
    await guest.progress();
  });

  it('that waits for an export is ours', async () => {
    const thaw = await freezeExport(sites(), 'vm1-vda');
    const { faultOf, what } = await verdict();
    thaw();
    assert.deepEqual(
      { faultOf, what },
      { faultOf: 'a disk', what: 'vm1 waits for vda: a request is under way' },
    );
    await guest.progress();
  });

  it('that waits for an export is ours, its virtual CPU standing still or not', async () => {
    const thawExport = await freezeExport(sites(), 'vm1-vdb');
    await guest.progress(20, 60_000, ['vda']);
    const thawCpu = await freezeCpu(sites(), guest);
    const { faultOf, what } = await verdict();
    thawCpu();
    thawExport();
    assert.equal(faultOf, 'a disk');
    assert.match(what, /^vm1 waits for .*vdb: a request is under way$/);
    await guest.progress();
  });

  it('that is paused, or whose QEMU says nothing, is not TCG’s fault', async () => {
    const { host } = sites().a;
    await host.virsh('suspend', guest.name);
    assert.equal((await verdict()).faultOf, 'nobody');
    await host.virsh('resume', guest.name);
    const pid = await host.qemuPid(guest.name);
    process.kill(pid, 'SIGSTOP');
    assert.equal((await verdict()).faultOf, 'nobody');
    process.kill(pid, 'SIGCONT');
    await guest.progress();
  });

  it('whose processes wait for answers that came long ago is lost by TCG', async () => {
    await guest.freeze();
    const { faultOf, what } = await verdict();
    assert.equal(faultOf, 'TCG');
    assert.equal(what, 'vm1 waits for vda,vdb, and every request there is answered');
  });

  it('whose kernel panics is lost by TCG, unless it has read other bytes than it wrote', async () => {
    await guest.panic();
    await assert.rejects(guest.progress(), /guest vm1 has crashed: .*Kernel panic/);
    const { faultOf, what } = await verdict();
    assert.equal(faultOf, 'TCG');
    assert.match(what, /^vm1 has crashed: .*Kernel panic - not syncing: sysrq triggered crash/);
    guest.errors.push('verify error vda block 1: wanted seq 2, found zeros');
    assert.equal((await verdict()).faultOf, 'nobody');
  });
});
