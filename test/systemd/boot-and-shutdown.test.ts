/**
 * A host with real libvirt is booted, shut down and booted again: its guest, which libvirt starts by itself, finds
 * its disk; guests end first, then libvirt, then disks, then daemon and gateway; a relocation goes on.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, open, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { originMetadata, originNamespace } from '../../src/libvirt/domain-xml.ts';
import { newRecord, writeRecord } from '../../src/store/records/record.ts';
import { installed } from '../lab/installed.ts';
import { useMachine } from '../lab/systemd/use-machine.ts';
import { waitFor } from '../lab/wait-for.ts';

const PROGRAMS = ['libvirtd', 'virsh', 'qemu-system-x86_64', '/usr/lib/libvirt/libvirt-guests.sh', 'busctl'];
const VM1 = '6f1c4f0e-6a0d-4f27-9a4b-111111111111';
const VM2 = '6f1c4f0e-6a0d-4f27-9a4b-222222222222';
const FAR = '/var/lib/xnbd/far/vm2-vda.img';
const MIB = 1024 * 1024;
const ORIGIN = `[Unit]
After=network.target
[Service]
ExecStart=/usr/bin/xnbd-export target vm2-vda --image ${FAR} --socket /run/far.sock \\
  --listen 127.0.0.1:10820 --state /var/lib/xnbd/far/state --source-gone told
`;

const domain = `<domain type='qemu'>
  <name>vm1</name><uuid>${VM1}</uuid><memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='writeback'/>
      <source protocol='nbd' name='vm1-vda'><host transport='unix' socket='/run/xnbd/vm1-vda.sock'/></source>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
`;

describe('a host that boots and shuts down', function () {
  this.timeout(300_000);
  before(function () {
    if (!installed(...PROGRAMS)) this.skip();
  });
  const machine = useMachine({
    config: '[gateway]\ntls = off\n[relocation]\ncopy-rate = 1M\n',
    units: { 'far-origin.service': ORIGIN },
    packaged: ['libvirtd.service', 'libvirt-guests.service', 'virtlogd.socket'],
    files: {
      '/etc/default/libvirt-guests': 'ON_BOOT=ignore\nON_SHUTDOWN=shutdown\nSHUTDOWN_TIMEOUT=2\n',
      '/etc/libvirt/qemu/vm1.xml': domain,
    },
    disks: ['vm1-vda'],
    furnish: async (each) => {
      const autostart = join(each.dir, 'root/etc/libvirt/qemu/autostart');
      await mkdir(autostart, { recursive: true });
      await symlink('/etc/libvirt/qemu/vm1.xml', join(autostart, 'vm1.xml'));
      await each.addImage(FAR, 64 * MIB);
      await writeFile(each.kept(FAR), randomBytes(64 * MIB));
      const record = { ...newRecord('vm2-vda', FAR, 64 * MIB), uuid: VM2 };
      await writeRecord(each.kept('/var/lib/xnbd/far/state'), record);
    },
  });

  const virsh = async (...args: string[]): Promise<string> =>
    (await machine().exec(['virsh', '--quiet', ...args])).stdout.trim();
  const state = async (name: string): Promise<string> => {
    const { stdout } = await machine().exec(['xnbdctl', 'status', name, '--json'], { check: false });
    return stdout === '' ? '' : (JSON.parse(stdout) as [{ state: string }])[0].state;
  };
  const guestRuns = (): Promise<void> =>
    waitFor('the guest to run', async () => (await virsh('domstate', 'vm1')) === 'running').then(
      () => undefined,
    );

  /**
   * Without controllers (a machine with control groups of the first kind has none to give) libvirt makes no
   * machine of its guest, so the test says to systemd-machined what libvirt would have said.
   */
  async function makeScope(): Promise<void> {
    const { stdout } = await machine().exec(['cat', '/run/libvirt/qemu/vm1.pid']);
    const scope = [
      'Slice',
      's',
      'machine.slice',
      'After',
      'as',
      '2',
      'libvirtd.service',
      'virtqemud.service',
    ];
    await machine().exec([
      ...['busctl', 'call', 'org.freedesktop.machine1', '/org/freedesktop/machine1'],
      ...['org.freedesktop.machine1.Manager', 'CreateMachine', 'sayssusa(sv)', 'qemu-1-vm1', '0'],
      ...['libvirt-qemu', 'vm', stdout.trim(), '', '3', ...scope],
      ...['Before', 'as', '1', 'virt-guest-shutdown.target'],
    ]);
  }

  it('the guest that libvirt starts by itself finds its disk', async () => {
    await guestRuns();
    assert.equal(await state('vm1-vda'), 'serving');
    assert.deepEqual(await cycles(), []);
  });

  it('a disk arrives, and is not complete yet', async () => {
    const origin = { name: 'vm2-vda', uri: 'nbd://127.0.0.1:10820/vm2-vda', uuid: VM2, generation: 1 };
    await machine().hook('migrate', {
      name: 'vm2',
      uuid: VM2,
      disks: ['vm2-vda'],
      origin: `<xnbd:origin xmlns:xnbd="${originNamespace}">${originMetadata([origin])
        .replace(/<\/?origin>/g, '')
        .replaceAll('<disk', '<xnbd:disk')}</xnbd:origin>`,
    });
    await machine().exec(['xnbdctl', 'takeover', 'vm2-vda']);
    assert.equal(await state('vm2-vda'), 'relocating');
  });

  it('guests end first, with all that they wrote, then libvirt, disks, daemon, gateway', async () => {
    await makeScope();
    const written = await virsh(
      'qemu-monitor-command',
      'vm1',
      '--hmp',
      'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 7 0 1M"',
    );
    assert.equal(written, '');
    // The kernel is the machine's, and has not booted: to the journal all is one boot.
    const span = ['--since', `@${Date.now() / 1000}`];
    await machine().shutDown();
    span.push('--until', `@${Date.now() / 1000}`);
    assert.equal((await bytesAt(machine().kept('/var/lib/xnbd/images/vm1-vda.img'), MIB - 1))[0], 7);

    await machine().boot();
    const order = await stopped(span);
    console.log(`      ${order.filter((unit) => /virt|vm1|xnbd/.test(unit)).join(', ')}`);
    const at = (unit: string): number => {
      assert.ok(order.includes(unit), `${unit} was not stopped: ${order.join(' ')}`);
      return order.indexOf(unit);
    };
    const guest = order.find((unit) => unit.endsWith('.scope') && unit.includes('vm1')) ?? 'the scope of vm1';
    assert.ok(at('libvirt-guests.service') < at(guest), 'guests are asked before they are ended');
    assert.ok(at(guest) < at('libvirtd.service'));
    // The daemon ends the disk of a guest that has ended; the one that arrives is ended by systemd.
    const [mine, arriving] = ['xnbd-export@vm1-vda.service', 'xnbd-export@vm2-vda.service'];
    assert.ok(at(guest) < at(mine));
    assert.ok(at('libvirtd.service') < at(arriving));
    for (const disk of [mine, arriving])
      for (const last of ['xnbdd.service', 'xnbd-gateway.service']) assert.ok(at(disk) < at(last));
    const complaints = await machine().journal(...span, '--priority=warning', '--identifier=xnbdd');
    assert.deepEqual(
      complaints.map(({ MESSAGE }) => MESSAGE!).filter((text) => text.includes('export')),
      [],
    );
  });

  it('after the boot the guest runs again, and the relocation goes on', async () => {
    await guestRuns();
    await waitFor('the disk that arrives', async () => (await state('vm2-vda')) === 'relocating');
    await machine().exec(['xnbdctl', 'limit', 'vm2-vda', 'none']);
    await waitFor('the disk to be complete', async () => (await state('vm2-vda')) === 'serving', 60_000);
    assert.deepEqual(await cycles(), []);
  });

  /** What systemd says of units that wait for each other in a circle: it leaves one of them out. */
  async function cycles(): Promise<string[]> {
    const said = await machine().journal('_PID=1');
    return said.map(({ MESSAGE }) => MESSAGE!).filter((text) => text.includes('ordering cycle'));
  }

  /** Units in the order in which they had ended when the host was shut down. */
  async function stopped(span: readonly string[]): Promise<string[]> {
    const said = await machine().journal(...span, '_PID=1');
    return said.flatMap(({ UNIT, MESSAGE }) =>
      /^(Stopped|Deactivated|.*: Deactivated)/.test(MESSAGE!) && UNIT ? [UNIT] : [],
    );
  }
});

async function bytesAt(path: string, position: number): Promise<Buffer> {
  const file = await open(path);
  try {
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, position);
    return buffer;
  } finally {
    await file.close();
  }
}
