import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { killExport } from '../../src/daemon/exports/export-process.ts';
import { newMove, writeMove } from '../../src/daemon/registry/move-file.ts';
import type { TestDomain } from '../lab/host/test-domain.ts';
import { TestHost } from '../lab/host/test-host.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('the daemon dies and comes back', function () {
  this.timeout(60_000);
  let host: TestHost;
  let vm: TestDomain;
  let guest: ChildProcess | undefined;

  before(function () {
    if (spawnSync('qemu-io', ['--version']).error === undefined) return;
    console.log('      skipped: qemu-io is missing (apt install qemu-utils)');
    this.skip();
  });
  beforeEach(async () => {
    vm = { name: 'vm1', uuid: randomUUID(), disks: ['vm1-vda'] };
    host = await TestHost.make();
    await host.addDisk('vm1-vda');
    await host.startDaemon();
    await host.succeeds('prepare', vm);
  });
  afterEach(async () => {
    if (guest?.exitCode === null && guest.signalCode === null) {
      guest.kill('SIGKILL');
      await once(guest, 'exit');
    }
    guest = undefined;
    await host.remove();
  });

  it('kill -9: the guest goes on, and the next daemon has the same exports', async () => {
    const { pid } = await host.status('vm1-vda');
    guest = spawn('stdbuf', ['-o0', 'qemu-io', '-f', 'raw', host.localUri('vm1-vda')], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    let said = '';
    guest.stdout!.on('data', (chunk: Buffer) => (said += chunk.toString()));
    guest.stderr!.on('data', (chunk: Buffer) => (said += chunk.toString()));
    let rounds = 0;
    // One at a time: qemu-io looks at its input again only when more of it comes.
    const command = async (line: string, answer: string): Promise<void> => {
      const before = said.length;
      guest!.stdin!.write(`${line}\n`);
      await waitFor(`the answer to '${line}'`, () => said.slice(before).includes(answer));
    };
    const round = async (): Promise<void> => {
      rounds += 1;
      await command(`write -P ${rounds} 4k 8k`, 'wrote 8192/8192');
      await command(`read -P ${rounds} 4k 8k`, 'read 8192/8192');
    };
    await round();
    await host.stop('SIGKILL');
    await round();
    await host.startDaemon();
    await round();
    assert.doesNotMatch(said, /verification failed|error/i);
    assert.equal((await host.status('vm1-vda')).pid, pid, 'it is another process');
    assert.match(await host.log(), new RegExp(`export vm1-vda is up: serving, pid ${pid}`));
    guest.stdin!.end();
    await once(guest, 'exit');
    await host.succeeds('stopped', vm);
    await host.succeeds('release', vm);
    await waitFor('the export has ended', async () => (await host.state('vm1-vda')) === undefined);
  });

  it('SIGTERM ends the daemon and no export', async () => {
    const { pid } = await host.status('vm1-vda');
    await host.stop('SIGTERM');
    assert.equal((await host.status('vm1-vda')).pid, pid);
  });

  it('an export that died meanwhile is started again, for its guest still runs', async () => {
    await host.stop('SIGKILL');
    const { pid } = await host.status('vm1-vda');
    await killExport(pid, 'vm1-vda');
    await host.startDaemon();
    assert.equal(await host.state('vm1-vda'), 'serving');
  });

  it('an export that nobody uses is not started', async () => {
    await host.succeeds('release', vm);
    await host.stop();
    await host.startDaemon();
    assert.equal(await host.state('vm1-vda'), undefined);
  });

  it('origins that another host still reads are served again after a reboot', async () => {
    await host.addDisk('vm2-vda', { state: 'fenced', lease: randomUUID() });
    await host.stop();
    await host.startDaemon();
    assert.equal(await host.state('vm2-vda'), 'fenced');
  });

  it('a retired disk is not served, and its image is kept where the configuration says nothing else', async () => {
    await host.addDisk('vm2-vda', { state: 'retired' });
    await host.stop();
    await host.startDaemon();
    assert.equal(await host.state('vm2-vda'), undefined);
    assert.equal((await host.record('vm2-vda'))?.state, 'retired');
  });

  it('neither an export that hangs nor a damaged record keeps it from its hooks', async () => {
    const other: TestDomain = { name: 'vm2', uuid: randomUUID(), disks: ['vm2-vda'] };
    await host.addDisk('vm2-vda');
    await host.addDisk('vm3-vda');
    await host.stop();
    // A disk that was arriving when its record was damaged.
    await writeMove(
      join(host.dir, 'relocations'),
      await newMove({ name: 'vm3', uuid: randomUUID() }, ['vm3-vda']),
    );
    await writeFile(join(host.stateDir('vm3-vda'), 'export.json'), '{');
    const { pid } = await host.status('vm1-vda');
    process.kill(pid, 'SIGSTOP');
    try {
      await host.startDaemon();
      assert.match(await host.log(), /export vm1-vda does not answer yet: /);
      assert.match(await host.log(), /vm3-vda\/export\.json is not the record of an export .* move /);
      await host.succeeds('prepare', other);
      assert.equal(await host.state('vm2-vda'), 'serving');
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    // Once by the first daemon, and again by the one that found it hanging.
    const up = `export vm1-vda is up: serving, pid ${pid}`;
    await waitFor('it is taken up', async () => (await host.log()).split(up).length === 3);
    assert.doesNotMatch(await host.log(), /export vm1-vda does not start/);
  });
});
