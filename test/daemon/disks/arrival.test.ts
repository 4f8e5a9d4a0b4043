import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectControl } from '../../../src/control/client.ts';
import { killExport } from '../../../src/daemon/exports/export-process.ts';
import type { TestDomain } from '../../lab/host/test-domain.ts';
import { MIB, type TestHost } from '../../lab/host/test-host.ts';
import { TwoHosts } from '../../lab/host/two-hosts.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { freePort, isFree } from '../../lab/net/free-port.ts';
import { waitFor } from '../../lab/wait-for.ts';

/** Each move is played as libvirt's hooks come. */
describe('a domain moves from host A to host B', function () {
  this.timeout(120_000);
  let two: TwoHosts;
  let a: TestHost;
  let b: TestHost;
  let vm: TestDomain;

  async function begin(config = '[relocation]\nretired = delete\n'): Promise<void> {
    two = await TwoHosts.make({ config });
    ({ a, b, vm } = two);
  }

  afterEach(() => two.remove());

  const travelling = (from = a) => two.travelling(from);
  const states = (host: TestHost) => two.states(host);
  const become = (host: TestHost, state: string | undefined) => two.become(host, state);
  const both = (state: string | undefined) => [state, state];

  async function ctl(host: TestHost, name: string, method: 'takeover'): Promise<void> {
    const client = await connectControl(join(host.run, `${name}.ctl`));
    try {
      await client.call(method);
    } finally {
      client.close();
    }
  }

  async function relocations(host: TestHost) {
    const dir = join(host.dir, 'relocations');
    const files = (await readdir(dir)).filter((file) => file.endsWith('.json'));
    return Promise.all(
      files.map(
        async (file) =>
          JSON.parse(await readFile(join(dir, file), 'utf8')) as { state: string; reason: string },
      ),
    );
  }

  it('stands by, is told that the source has ended, follows, and leaves nothing at A', async () => {
    await begin();
    await b.succeeds('migrate', await travelling());
    assert.deepEqual(await states(b), both('standby'));
    assert.deepEqual(await states(a), both('lent'));
    const { pid } = await b.status('vm1-vda');
    await b.succeeds('prepare', await travelling());
    await b.succeeds('start', await travelling());
    await b.succeeds('started', await travelling());
    assert.equal((await b.status('vm1-vda')).pid, pid);
    // No guest runs at B in this test: what takes its disks over is the word that A's is gone.
    await a.succeeds('stopped', vm);
    await a.succeeds('release', vm);
    await become(b, 'serving');
    await waitFor('nothing is left at A', async () => (await a.left()).length === 0);
    assert.deepEqual(await states(a), both(undefined));
    for (const name of vm.disks) {
      const moved = await readFile(join(b.dir, 'images', `${name}.img`));
      assert.equal(moved.length, 8 * MIB);
      assert.ok(moved.subarray(MIB, 2 * MIB).equals(Buffer.alloc(MIB, name)));
      assert.equal((await b.record(name))?.generation, 2);
    }
    await waitFor('it is told', async () => (await relocations(b))[0]?.state === 'completed');
    assert.match(await b.log(), /disk vm1-vdb of vm1 is here completely/);
    // It runs on, and ends, as any other.
    await b.succeeds('stopped', vm);
    await b.succeeds('release', vm);
    await become(b, undefined);
    await b.succeeds('prepare', vm);
    assert.deepEqual(await states(b), both('serving'));
  });

  it('is not deleted at A before its guest there has let go of it, nor while a client has not', async () => {
    await begin();
    const client = await connectClient(a.localUri('vm1-vdb'));
    await b.succeeds('migrate', await travelling());
    await b.succeeds('prepare', await travelling());
    await b.succeeds('started', await travelling());
    await a.succeeds('stopped', vm);
    await waitFor('it is told why', async () =>
      /disk vm1-vda .*; it stays for now: vm1 uses it here/.test(await a.log()),
    );
    assert.equal(await a.state('vm1-vda'), 'retired');
    await a.succeeds('release', vm);
    await waitFor('one is gone', async () => !(await a.left()).includes('vm1-vda.img'));
    assert.ok((await a.left()).includes('vm1-vdb.img'));
    client.disconnect();
    await waitFor('nothing is left at A', async () => (await a.left()).length === 0);
  });

  it('moves back: what A had kept of the first stay is set aside, not served', async () => {
    await begin('[relocation]\nretired = keep\n');
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      const domain = await travelling(from);
      await to.succeeds('migrate', domain);
      await to.succeeds('prepare', domain);
      await to.succeeds('started', domain);
      await from.succeeds('stopped', vm);
      await from.succeeds('release', vm);
      await become(to, 'serving');
      await become(from, undefined);
    }
    assert.equal((await a.record('vm1-vda'))?.generation, 3);
    assert.deepEqual(
      (await a.left()).filter((file) => file.includes('@')),
      ['vm1-vda@1', 'vm1-vda@1.img', 'vm1-vdb@1', 'vm1-vdb@1.img'],
    );
  });

  it('fails after prepare: B gives everything back, twice told, and A has its disks again', async () => {
    await begin();
    await b.succeeds('migrate', await travelling());
    await b.succeeds('prepare', await travelling());
    for (const op of ['stopped', 'release', 'stopped', 'release']) await b.succeeds(op, await travelling());
    assert.deepEqual(await b.left(), []);
    assert.deepEqual(await states(b), both(undefined));
    await become(a, 'serving');
    assert.equal((await relocations(b))[0]?.state, 'failed');
  });

  it('is never prepared: the lease runs out, and B has nothing left', async () => {
    await begin('[relocation]\nprepare-timeout = 2\n');
    await b.succeeds('migrate', await travelling());
    await waitFor('B gave up', async () => (await b.left()).length === 0);
    await become(a, 'serving');
    await waitFor('that is told', async () => (await relocations(b))[0]?.state === 'failed');
    assert.match((await relocations(b))[0]!.reason, /within 2 s/);
  });

  it('one disk cannot come: the other is given back, and the line names the disk', async () => {
    await begin();
    const domain = await travelling();
    domain.origin = domain.origin!.replace(/127.0.0.1:\d+\/vm1-vdb/, '127.0.0.1:1/vm1-vdb');
    const refused = await b.hook('migrate', domain);
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /disk vm1-vdb: 127\.0\.0\.1:1 cannot be reached/);
    assert.deepEqual(await b.left(), []);
    await become(a, 'serving');
    // And it may be tried again at once.
    await b.succeeds('migrate', await travelling());
    assert.deepEqual(await states(b), both('standby'));
  });

  it('no room: refused with the bytes that are needed and free, before anything is copied', async function () {
    if (spawnSync('nbdkit', ['--version']).error !== undefined) {
      console.log('      skipped: nbdkit is missing (apt install nbdkit)');
      this.skip();
    }
    const port = await freePort();
    await begin(`[peers]\nvast = 127.0.0.1:${port}\n`);
    // 8 TiB, and it does not tell which of them hold data.
    const vast = spawn('nbdkit', ['-f', '-p', `${port}`, '--filter=noextents', 'memory', '8T'], {
      stdio: 'ignore',
    });
    try {
      await waitFor('nbdkit listens', async () => !(await isFree(port)));
      const refused = await b.hook('migrate', { ...vm, disks: ['vm1-vda'] });
      assert.equal(refused.exit, 1);
      assert.match(
        refused.stderr,
        /no room for the disks of vm1: 8796093022208 bytes needed in .*images, \d+ free/,
      );
      assert.deepEqual(await b.left(), []);
    } finally {
      vast.kill();
    }
  });

  it('no room: a disk that is still arriving keeps what it has yet to fetch', async function () {
    if (spawnSync('nbdkit', ['--version']).error !== undefined) {
      console.log('      skipped: nbdkit is missing (apt install nbdkit)');
      this.skip();
    }
    const port = await freePort();
    await begin(`[peers]\nslow = 127.0.0.1:${port}\n`);
    const images = join(b.dir, 'images');
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=100m', 'tmpfs', images]).status !== 0) {
      console.log('      skipped: no file system can be mounted (run as root)');
      this.skip();
    }
    const filters = ['--filter=noextents', '--filter=rate'];
    const slow = spawn('nbdkit', ['-f', '-p', `${port}`, ...filters, 'memory', '60M', 'rate=8M'], {
      stdio: 'ignore',
    });
    try {
      await waitFor('nbdkit listens', async () => !(await isFree(port)));
      const first = { ...vm, disks: ['vm1-vda'] };
      await b.succeeds('migrate', first);
      await b.succeeds('prepare', first);
      await ctl(b, 'vm1-vda', 'takeover');
      await waitFor('a block is here', async () => (await b.status('vm1-vda')).presentBytes > 0);
      const refused = await b.hook('migrate', { name: 'vm2', uuid: randomUUID(), disks: ['vm2-vda'] });
      assert.equal(refused.exit, 1);
      const said = /no room for the disks of vm2: 62914560 bytes .*, \d+ free, of which (\d+) are for disks/;
      const kept = Number(said.exec(refused.stderr)?.[1]);
      assert.ok(kept > 40 * MIB && kept <= 60 * MIB, refused.stderr);
      assert.equal(await b.state('vm1-vda'), 'relocating');
    } finally {
      slow.kill();
      await b.stop('SIGKILL');
      await killExport((await b.status('vm1-vda')).pid, 'vm1-vda');
      spawnSync('umount', [images]);
    }
  });

  it('holes need no room', async () => {
    await begin();
    await a.succeeds('release', vm);
    vm.disks = ['vm1-vda'];
    await a.addDisk('vm1-vda', {}, 8 * 1024 * 1024 * MIB);
    await a.succeeds('prepare', vm);
    await b.succeeds('migrate', await travelling());
    assert.deepEqual(await b.state('vm1-vda'), 'standby');
  });

  it('nobody tells where the disk is: refused, with both ways out', async () => {
    await begin();
    const refused = await b.hook('migrate', vm);
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /where disk vm1-vda of vm1 is now.*metadata.*\[peers\]/);
  });

  it('a file in the way is neither used nor deleted', async () => {
    await begin();
    await writeFile(join(b.dir, 'images/vm1-vdb.img'), 'precious');
    const refused = await b.hook('migrate', await travelling());
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /images\/vm1-vdb\.img is in the way/);
    assert.equal(await readFile(join(b.dir, 'images/vm1-vdb.img'), 'utf8'), 'precious');
    assert.deepEqual(await b.left(), ['vm1-vdb.img']);
  });

  it('the disk is served at B already: refused', async () => {
    await begin();
    await b.addDisk('vm1-vda');
    const refused = await b.hook('migrate', await travelling());
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /disk vm1-vda is on this host already \(serving/);
    assert.equal((await b.record('vm1-vda'))?.state, 'serving');
  });

  it('the domain of libxl, announced without XML, arrives in prepare; an old announcement is a plain start', async () => {
    await begin();
    await b.succeeds('migrate', vm, { driver: 'libxl', xml: '' });
    await b.succeeds('prepare', await travelling(), { driver: 'libxl' });
    assert.deepEqual(await states(b), both('standby'));
    await b.succeeds('release', vm, { driver: 'libxl' });
    await b.succeeds('migrate', vm, { driver: 'libxl', xml: '' });
    const longAgo = new Date(Date.now() - 120_000);
    await utimes(join(b.run, 'announced/libxl.vm1'), longAgo, longAgo);
    const refused = await b.hook('prepare', await travelling(), { driver: 'libxl' });
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /not known on this host/);
  });

  it('the daemon is killed while the disk follows: the next one goes on, and tells the end', async () => {
    await begin();
    await b.succeeds('migrate', await travelling());
    await b.succeeds('prepare', await travelling());
    await b.stop('SIGKILL');
    // All of it happens while nobody looks; one of the exports dies, too.
    await Promise.all(vm.disks.map((name) => ctl(b, name, 'takeover')));
    await become(b, 'serving');
    await killExport((await b.status('vm1-vda')).pid, 'vm1-vda');
    assert.equal((await relocations(b))[0]?.state, 'preparing');
    await b.startDaemon();
    await waitFor('it is told', async () => (await relocations(b))[0]?.state === 'completed');
    assert.deepEqual(await states(b), both('serving'), await b.log());
    await b.stop();
    await b.startDaemon();
    assert.equal((await relocations(b)).length, 1);
  });

  it('an export in standby that dies is there again for its guest', async () => {
    await begin();
    await b.succeeds('migrate', await travelling());
    await b.succeeds('prepare', await travelling());
    await killExport((await b.status('vm1-vda')).pid, 'vm1-vda');
    await waitFor('it stands by again', async () => (await b.state('vm1-vda')) === 'standby');
    await a.succeeds('stopped', vm);
    await become(b, 'serving');
  });

  it('the guest ends at B before its disks are there: they go on, and then nobody serves them', async () => {
    await begin();
    await b.succeeds('migrate', await travelling());
    await b.succeeds('prepare', await travelling());
    await a.succeeds('stopped', vm);
    await a.succeeds('release', vm);
    await become(b, 'serving');
    await b.succeeds('stopped', vm);
    await b.succeeds('release', vm);
    await become(b, undefined);
    assert.deepEqual(await b.left(), ['vm1-vda', 'vm1-vda.img', 'vm1-vdb', 'vm1-vdb.img']);
  });
});
