import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { killExport } from '../../../src/daemon/exports/export-process.ts';
import { domainXml, type TestDomain } from '../../lab/host/test-domain.ts';
import { TestHost } from '../../lab/host/test-host.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { waitFor } from '../../lab/wait-for.ts';

describe('the daemon and the hooks of one host', function () {
  this.timeout(60_000);
  let host: TestHost;
  let vm: TestDomain;

  beforeEach(async () => {
    vm = { name: 'vm1', uuid: randomUUID(), disks: ['vm1-vda', 'vm1-vdb'] };
    host = await TestHost.make();
    await host.startDaemon();
  });
  afterEach(() => host.remove());

  const runs = async (name: string): Promise<boolean> => (await host.state(name)) !== undefined;

  it('a start serves the disks, an end ends the exports, both as often as libvirt likes', async () => {
    for (const name of vm.disks) await host.addDisk(name);
    await host.succeeds('prepare', vm);
    for (const name of vm.disks) assert.equal(await host.state(name), 'serving');
    const { pid } = await host.status('vm1-vda');
    await host.succeeds('prepare', vm);
    await host.succeeds('start', vm);
    await host.succeeds('started', vm);
    assert.equal((await host.status('vm1-vda')).pid, pid, 'the export was started twice');
    await host.succeeds('stopped', vm);
    await host.succeeds('release', vm);
    await host.succeeds('stopped', vm);
    await host.succeeds('release', vm);
    for (const name of vm.disks) assert.equal(await runs(name), false);
    await host.succeeds('prepare', vm);
    assert.equal(await host.state('vm1-vdb'), 'serving');
  });

  describe('two domains with one disk', () => {
    let copy: TestDomain;

    beforeEach(async () => {
      for (const name of vm.disks) await host.addDisk(name);
      copy = { name: 'vm1-copy', uuid: randomUUID(), disks: ['vm1-vdb'] };
    });

    const refused = async (): Promise<void> => {
      const { exit, stderr } = await host.hook('prepare', copy);
      assert.equal(exit, 1);
      assert.match(stderr, /disk vm1-vdb of vm1-copy is a disk of vm1, which runs here: shut vm1 off first/);
    };

    it('the second does not start while the first runs, and starts when that has ended', async () => {
      await host.succeeds('prepare', vm);
      await host.succeeds('started', vm);
      await refused();
      assert.equal(await host.state('vm1-vdb'), 'serving');
      await host.succeeds('stopped', vm);
      await host.succeeds('release', vm);
      await host.succeeds('prepare', copy);
      const { exit, stderr } = await host.hook('prepare', vm);
      assert.equal(exit, 1);
      assert.match(stderr, /disk vm1-vdb of vm1 is a disk of vm1-copy, which runs here/);
      assert.equal(await runs('vm1-vda'), false, 'the other disk of the refused domain is served');
    });

    it('of two that start at once, one does', async () => {
      const results = await Promise.all([host.hook('prepare', vm), host.hook('prepare', copy)]);
      assert.deepEqual(results.map(({ exit }) => exit).sort(), [0, 1]);
    });

    it('both start where both say that they share it, and it stays while one runs', async () => {
      const shared = (domain: TestDomain, sharing: 'readonly' | 'shareable') => ({ ...domain, sharing });
      await host.succeeds('prepare', shared(vm, 'readonly'));
      await refused();
      await host.succeeds('prepare', shared(copy, 'shareable'));
      await host.succeeds('stopped', vm);
      await host.succeeds('release', vm);
      assert.deepEqual([await runs('vm1-vda'), await runs('vm1-vdb')], [false, true]);
    });

    it('a domain that ended while no daemon heard of it does not block for ever; its client does', async () => {
      await host.succeeds('prepare', vm);
      await host.stop();
      await host.startDaemon();
      const client = await connectClient(host.localUri('vm1-vdb'));
      await waitFor('the client', async () => (await host.status('vm1-vdb')).clients === 1);
      await refused();
      client.disconnect();
      await waitFor('its end', async () => (await host.status('vm1-vdb')).clients === 0);
      // libvirt is not there to be asked; its hypervisor is: a process with the domain's uuid.
      const qemu = spawn('sh', ['-c', 'read line', 'qemu', '-uuid', vm.uuid], { stdio: ['pipe'] });
      await refused();
      qemu.kill();
      await once(qemu, 'exit');
      await host.succeeds('prepare', copy);
      assert.match(await host.log(), /vm1 has ended and no hook told/);
      await waitFor('the end of its other export', async () => !(await runs('vm1-vda')));
    });
  });

  it('the disk of a guest that has migrated waits for its next host, though no link is there', async () => {
    for (const name of vm.disks) await host.addDisk(name);
    await host.succeeds('prepare', vm);
    await host.succeeds('stopped', vm);
    // As libvirt 10.5 and later say it; `-`, in the test above, is the word of earlier ones.
    await host.succeeds('release', vm, { extra: 'migrated' });
    for (const name of vm.disks) assert.equal(await host.state(name), 'serving');
    await killExport((await host.status('vm1-vda')).pid, 'vm1-vda');
    await waitFor('it is started again', () => runs('vm1-vda'));
  });

  it('an export that somebody is still connected to is not ended under him', async () => {
    for (const name of vm.disks) await host.addDisk(name);
    await host.succeeds('prepare', vm);
    const client = await connectClient(host.localUri('vm1-vda'));
    await host.succeeds('release', vm);
    await waitFor('the other one has ended', async () => !(await runs('vm1-vdb')));
    assert.equal((await client.read(0, 4096)).length, 4096);
    client.disconnect();
    await waitFor('it ends when he has gone', async () => !(await runs('vm1-vda')));
  });

  it('a disk that this host does not know: refused, by name, with the way out, and nothing runs', async () => {
    await host.addDisk('vm1-vda');
    const refused = await host.hook('prepare', vm);
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /^xnbd: disk vm1-vdb of vm1 is not known .*xnbdctl adopt vm1\n$/);
    assert.equal(await runs('vm1-vda'), false);
  });

  it('an image that is gone: refused with the words of the export, and the other disk is let go', async () => {
    await host.addDisk('vm1-vda');
    await host.addDisk('vm1-vdb', { image: join(host.dir, 'images/gone.img') });
    const refused = await host.hook('prepare', vm);
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /gone\.img/);
    assert.equal(refused.stderr.split('\n').length, 2, refused.stderr);
    assert.equal(await runs('vm1-vda'), false);
  });

  it('a disk that has moved away does not start here', async () => {
    await host.addDisk('vm1-vda', { state: 'fenced', lease: randomUUID() });
    await host.addDisk('vm1-vdb', { state: 'retired' });
    for (const name of vm.disks) {
      const refused = await host.hook('prepare', { ...vm, disks: [name] });
      assert.equal(refused.exit, 1);
      assert.match(refused.stderr, new RegExp(`disk ${name} of vm1 moved to another host.*start vm1`));
    }
  });

  it('hostile XML is refused in one line where something begins, and never fails what ends', async () => {
    const xml = `<!DOCTYPE domain [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n${domainXml(host.run, vm).replace('vm1<', '&b;<')}`;
    for (const op of ['migrate', 'prepare']) {
      const refused = await host.hook(op, vm, { xml });
      assert.equal(refused.exit, 1, op);
      assert.equal(refused.stderr.trimEnd().split('\n').length, 1, refused.stderr);
    }
    for (const op of ['stopped', 'release', 'reconnect', 'started']) await host.succeeds(op, vm, { xml });
  });

  it('without the daemon only what begins is refused, and says what to do', async () => {
    await host.stop();
    for (const op of ['prepare', 'migrate']) {
      const refused = await host.hook(op, vm);
      assert.equal(refused.exit, 1, op);
      assert.equal(refused.stderr, `xnbdd does not answer on ${host.run}/hook.sock: systemctl start xnbdd\n`);
    }
    for (const op of ['start', 'started', 'stopped', 'release', 'reconnect', 'restore']) {
      assert.equal((await host.hook(op, vm)).exit, 0, op);
    }
  });

  it('an end that libvirt told while no daemon ran is answered by the next, once', async () => {
    for (const name of vm.disks) await host.addDisk(name);
    await host.succeeds('prepare', vm);
    await host.daemon!.end('SIGKILL');
    const missed = async () => (await readdir(join(host.run, 'missed'))).length;
    for (const op of ['stopped', 'release']) assert.equal((await host.hook(op, vm)).exit, 0);
    assert.equal(await missed(), 2);
    assert.equal(await runs('vm1-vda'), true);
    await host.startDaemon();
    assert.equal(await missed(), 0);
    for (const name of vm.disks) assert.equal(await runs(name), false, name);
    // What comes later is not undone by it.
    await host.succeeds('prepare', vm);
    await host.daemon!.end('SIGKILL');
    await host.startDaemon();
    for (const name of vm.disks) assert.equal(await runs(name), true, name);
  });

  it('an export that dies while its guest runs is started again', async () => {
    for (const name of vm.disks) await host.addDisk(name);
    await host.succeeds('prepare', vm);
    const { pid } = await host.status('vm1-vda');
    await killExport(pid, 'vm1-vda');
    await waitFor('the export is back', async () => (await host.state('vm1-vda')) === 'serving');
    assert.notEqual((await host.status('vm1-vda')).pid, pid);
  });

  it("'reconnect' takes up the disks of a running guest, also when one of them cannot be", async () => {
    await host.addDisk('vm1-vda');
    await host.succeeds('reconnect', vm);
    await waitFor('the known disk is served', async () => (await host.state('vm1-vda')) === 'serving');
  });

  it('the hook socket is for root alone, and a second daemon is turned away', async () => {
    const { mode } = await stat(join(host.run, 'hook.sock'));
    assert.equal(mode & 0o777, 0o600);
    await assert.rejects(host.startDaemon(), /hook\.sock/);
    await host.addDisk('vm1-vda');
    await host.succeeds('prepare', { ...vm, disks: ['vm1-vda'] });
  });

  it('an export inherits nothing that libvirt waits for', async () => {
    await host.addDisk('vm1-vda');
    await host.succeeds('prepare', { ...vm, disks: ['vm1-vda'] });
    const { pid } = await host.status('vm1-vda');
    const sessionOf = async (id: number) =>
      (await readFile(`/proc/${id}/stat`, 'utf8')).split(') ')[1]!.split(' ')[3];
    assert.equal(await sessionOf(pid), String(pid), 'it has no session of its own');
  });
});
