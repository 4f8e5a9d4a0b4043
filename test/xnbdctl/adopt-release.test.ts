import assert from 'node:assert/strict';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createLab, type Lab, labUnavailable } from '../lab/libvirt/lab.ts';

const XNBDCTL = join(import.meta.dirname, '../../src/bin/xnbdctl.ts');
const MIB = 1024 * 1024;
const IMAGE = '/var/lib/xnbd/images/old.img';

const DOMAIN = `<domain type='qemu'>
  <name>old</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='${IMAGE}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
  </devices>
</domain>
`;

describe('xnbdctl adopt and release', function () {
  this.timeout(180_000);
  let lab: Lab | undefined;

  before(async function () {
    const reason = await labUnavailable();
    if (reason !== undefined) {
      console.log(`      skipped: ${reason}`);
      this.skip();
    }
    lab = await createLab();
    await writeFile(lab.a.outside(IMAGE), '');
    await truncate(lab.a.outside(IMAGE), 8 * MIB);
    await writeFile(lab.a.outside('/run/lab/old.xml'), DOMAIN);
    await lab.a.virsh('define', '/run/lab/old.xml');
  });
  after(() => lab?.destroy());

  const xnbdctl = (...args: string[]) => lab!.a.exec([process.execPath, XNBDCTL, ...args], { check: false });

  it('shows the change, and makes it only when told to', async () => {
    const { a } = lab!;
    const before = await a.virsh('dumpxml', 'old');
    const shown = await xnbdctl('adopt', 'old');
    assert.equal(shown.code, 1);
    assert.match(
      shown.stdout,
      /^vda: export old-vda, image \/var\/lib\/xnbd\/images\/old\.img \(8\.0 MiB\)$/m,
    );
    assert.match(shown.stdout, /^sda: .*stays as it is$/m);
    assert.match(shown.stdout, /^-.*<source file='\/var\/lib\/xnbd\/images\/old\.img'\/>$/m);
    assert.match(shown.stdout, /^\+.*<source protocol='nbd' name='old-vda'>$/m);
    assert.match(shown.stderr, /^xnbdctl: .*add --yes/);
    assert.equal(await a.virsh('dumpxml', 'old'), before);
    assert.equal((await xnbdctl('list')).stdout, 'no disks\n');
  });

  it('adopts, and releases again', async () => {
    const { a } = lab!;
    const before = await a.virsh('dumpxml', 'old');
    const adopted = await xnbdctl('adopt', 'old', '--yes');
    assert.equal(adopted.code, 0, adopted.stderr);
    assert.match(adopted.stdout, /^the disks of old are xNBD disks: old-vda$/m);
    assert.match(
      await a.virsh('dumpxml', 'old'),
      /<host transport='unix' socket='\/run\/xnbd\/old-vda\.sock'\/>/,
    );
    assert.match((await xnbdctl('list')).stdout, /^old-vda +serving +8\.0 MiB +100 %$/m);
    const again = await xnbdctl('adopt', 'old', '--yes');
    assert.equal(again.code, 0);
    assert.match(again.stdout, /nothing to change in domain old/);
    const released = await xnbdctl('release', 'old', '--yes');
    assert.equal(released.code, 0, released.stderr);
    assert.equal((await xnbdctl('list')).stdout, 'no disks\n');
    const after = await a.virsh('dumpxml', 'old');
    assert.equal(
      after.replace(/<driver name='qemu'[^>]*>/, ''),
      before.replace(/<driver name='qemu'[^>]*>/, ''),
    );
  });

  it('says which domain there is none of', async () => {
    const { code, stderr } = await xnbdctl('adopt', 'nobody', '--yes');
    assert.equal(code, 1);
    assert.match(stderr, /^xnbdctl: there is no domain nobody.*\n$/);
  });
});
