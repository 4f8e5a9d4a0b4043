/** What each user may reach on a real systemd: the gateway what serves lending, an export its image. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { installed } from '../lab/installed.ts';
import { useMachine } from '../lab/systemd/use-machine.ts';

describe('least privilege', function () {
  this.timeout(120_000);
  const elsewhere = '/srv/vm images/100% "mine".img';
  const machine = useMachine({
    disks: ['vm1-vda'],
    furnish: async (each) => {
      await each.addDisk('vm2-vda', 8 * 1024 * 1024, elsewhere);
      await each.addDisk('gone-vda');
      await each.changeRecord('gone-vda', { state: 'retired' });
    },
  });
  const vm1 = { name: 'vm1', uuid: randomUUID(), disks: ['vm1-vda'] };

  /** Runs a program as another user. @returns what it printed, whether it succeeded or not */
  async function as(user: string, ...argv: string[]): Promise<string> {
    const { stdout, stderr } = await machine().exec(
      [
        'setpriv',
        `--reuid=${user}`,
        `--regid=${user === 'nobody' ? 'nogroup' : user}`,
        '--clear-groups',
        ...argv,
      ],
      { check: false },
    );
    return stdout + stderr;
  }
  const info = (name: string): string => `nbd+unix:///${name}?socket=/run/xnbd/${name}.sock`;

  before(async function () {
    if (!installed('nbdinfo', 'nbdcopy', 'setpriv')) this.skip();
    await machine().hook('prepare', vm1);
  });

  it('the gateway is a user of its own, without capabilities', async () => {
    const pid = await machine().property('xnbd-gateway.service', 'MainPID');
    const { stdout } = await machine().exec(['cat', `/proc/${pid}/status`]);
    assert.match(stdout, /^CapEff:\t0+$/m);
    assert.match(stdout, /^CapBnd:\t0+$/m);
    assert.doesNotMatch(stdout, /^Uid:\t0/m);
    const { stdout: who } = await machine().exec(['ps', '-o', 'user:20=', '-p', pid]);
    assert.equal(who.trim(), 'xnbd-gateway');
  });

  it('what it brings is a peer, and so is its own user, who may not write', async () => {
    const { stdout } = await machine().exec(['nbdinfo', 'nbd://127.0.0.1/vm1-vda']);
    assert.match(stdout, /is_read_only: true/);
    assert.match(await as('xnbd-gateway', 'nbdinfo', info('vm1-vda')), /is_read_only: true/);
    assert.match((await machine().exec(['nbdinfo', info('vm1-vda')])).stdout, /is_read_only: false/);
  });

  it('QEMU may write; others may not even connect, and nobody but root reaches control and hooks', async () => {
    assert.match(await as('libvirt-qemu', 'nbdinfo', info('vm1-vda')), /is_read_only: false/);
    assert.match(await as('nobody', 'nbdinfo', info('vm1-vda')), /Permission denied/);
    for (const user of ['xnbd-gateway', 'libvirt-qemu', 'nobody'])
      for (const path of ['/run/xnbd/vm1-vda.ctl', '/run/xnbd/hook.sock'])
        assert.match(
          await as(user, 'nbdinfo', `nbd+unix:///x?socket=${path}`),
          /Permission denied/,
          `${user} ${path}`,
        );
  });

  it('the gateway reads no record and no image, and tells of a disk that has moved away all the same', async () => {
    for (const path of ['/var/lib/xnbd/exports/vm1-vda/export.json', '/var/lib/xnbd/images'])
      assert.match(await as('xnbd-gateway', 'cat', path), /Permission denied/);
    const { stderr } = await machine().exec(['nbdinfo', 'nbd://127.0.0.1/gone-vda'], { check: false });
    // NBD_REP_ERR_POLICY: it is retired. One that sleeps would be NBD_REP_ERR_SHUTDOWN. libnbd says more from 1.22 on.
    assert.match(stderr, /Operation not supported|is retired/);
  });

  it('an export writes its image, where that lies elsewhere, too, and nothing beside it', async () => {
    await machine().hook('prepare', { name: 'vm2', uuid: randomUUID(), disks: ['vm2-vda'] });
    await machine().exec(['sh', '-c', `printf here | nbdcopy - '${info('vm2-vda')}'`]);
    const { stdout } = await machine().exec(['head', '-c4', elsewhere]);
    assert.equal(stdout, 'here');
    const pid = await machine().property('xnbd-export@vm2-vda', 'MainPID');
    const { stderr } = await machine().exec(
      [
        'nsenter',
        '--target',
        pid,
        '--mount',
        'touch',
        '/srv/vm images/another',
        '/etc/another',
        '/usr/another',
      ],
      { check: false },
    );
    assert.equal(stderr.match(/Read-only file system/g)?.length, 3, stderr);
  });
});
