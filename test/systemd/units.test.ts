/** Exports as units of a real systemd: xnbd-export@NAME.service. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { connectClient } from '../lab/nbd/client.ts';
import type { Machine } from '../lab/systemd/machine.ts';
import { useMachine } from '../lab/systemd/use-machine.ts';
import { waitFor } from '../lab/wait-for.ts';

const UNIT = 'xnbd-export@vm1-vda.service';

describe('exports are units of systemd', function () {
  this.timeout(120_000);
  const machine = useMachine({ disks: ['vm1-vda', 'vm1+vdb'] });
  const vm = { name: 'vm1', uuid: randomUUID(), disks: ['vm1-vda', 'vm1+vdb'] };

  const mainPid = async (unit = UNIT): Promise<number> => Number(await machine().property(unit, 'MainPID'));
  const uri = (name: string): string =>
    `nbd+unix:///${name}?socket=${machine().outside(`/run/xnbd/${name}.sock`)}`;

  before(() => machine().hook('prepare', vm));

  it('the daemon starts one for each disk of a guest, in xnbd.slice, and not as its child', async () => {
    assert.equal(await machine().property(UNIT, 'ActiveState'), 'active');
    const place = await machine().property(UNIT, 'ControlGroup');
    assert.match(place, /^\/xnbd\.slice\/.*vm1-vda\.service$/);
    const daemon = await machine().property('xnbdd.service', 'MainPID');
    const { stdout } = await machine().exec(['ps', '-o', 'ppid=,comm=', '-p', String(await mainPid())]);
    assert.match(stdout.trim(), /^1 xnbd-export$/, `a child of ${daemon}?`);
  });

  it('a name with + is written as systemd writes it, and found as it is', async () => {
    assert.equal(await machine().property('xnbd-export@vm1\\x2bvdb.service', 'ActiveState'), 'active');
    assert.match(await machine().systemctl('status', 'xnbd-export@vm1+vdb'), /serving; 0 clients/);
    const client = await connectClient(uri('vm1+vdb'));
    await client.write(0, Buffer.from('here'));
    client.disconnect();
  });

  it('systemctl status says what the disk does', async () => {
    const client = await connectClient(uri('vm1-vda'));
    await waitFor('the status of a disk with a client', async () =>
      (await machine().systemctl('status', 'xnbd-export@vm1-vda')).includes('Status: "serving; 1 client"'),
    );
    client.disconnect();
  });

  it('a daemon that is restarted, or killed, touches none of them', async () => {
    const client = await connectClient(uri('vm1-vda'));
    const pids = [await mainPid(), await mainPid('xnbd-export@vm1\\x2bvdb.service')];
    await client.write(4096, Buffer.alloc(4096, 7));
    await machine().systemctl('restart', 'xnbdd');
    await client.write(8192, Buffer.alloc(4096, 8));
    await machine().systemctl('kill', '--signal=KILL', 'xnbdd');
    await waitFor(
      'the daemon to be back',
      async () =>
        (await machine().property('xnbdd.service', 'NRestarts')) === '1' &&
        (await machine().property('xnbdd.service', 'ActiveState')) === 'active',
    );
    assert.deepEqual(await client.read(4096, 1), Buffer.from([7]));
    assert.deepEqual([await mainPid(), await mainPid('xnbd-export@vm1\\x2bvdb.service')], pids);
    const { stdout } = await machine().exec(['xnbdctl', 'list']);
    assert.match(stdout, /vm1-vda.*serving/);
    client.disconnect();
  });

  for (const daemon of ['runs', 'is down'] as const) {
    it(`one that is killed is back at once, while the daemon ${daemon}`, async () => {
      if (daemon === 'is down') await machine().systemctl('stop', 'xnbdd');
      const before = await mainPid();
      const began = performance.now();
      await machine().systemctl('kill', '--signal=KILL', UNIT);
      await waitFor('another process', async () => {
        const pid = await mainPid();
        return pid !== 0 && pid !== before && (await machine().property(UNIT, 'ActiveState')) === 'active';
      });
      console.log(`      back after ${Math.round(performance.now() - began)} ms`);
      const client = await connectClient(uri('vm1-vda'));
      assert.deepEqual(await client.read(8192, 1), Buffer.from([8]));
      client.disconnect();
      if (daemon === 'is down') await machine().systemctl('start', 'xnbdd');
    });
  }

  it('a restart replaces the process under its client, and the daemon takes the new one up', async () => {
    const client = await connectClient(uri('vm1-vda'));
    const waits: number[] = [];
    for (const restart of [
      ['systemctl', 'restart', UNIT],
      ['xnbdctl', 'restart', 'vm1-vda'],
    ]) {
      const before = await mainPid();
      // It has been killed and started in the tests before, and systemd counts.
      await machine().systemctl('reset-failed', UNIT);
      let restarting = true;
      const restarted = machine()
        .exec(restart)
        .finally(() => (restarting = false));
      for (let at = 0; restarting; at = (at + 1) % 256) {
        const began = performance.now();
        await client.write(at * 4096, Buffer.alloc(4096, at));
        assert.deepEqual(await client.read(at * 4096, 1), Buffer.from([at]));
        waits.push(performance.now() - began);
      }
      await restarted;
      const after = await mainPid();
      assert.notEqual(after, before);
      await waitFor('the daemon to know the new process', async () =>
        (await told(machine(), 'xnbdd')).includes(`export vm1-vda is up: serving, pid ${after}`),
      );
      const said = await told(machine(), 'xnbd-export');
      assert.match(
        said,
        new RegExp(`took over from process ${before} .*: 1 connections, which waited \\d+ ms`),
      );
    }
    console.log(`      longest wait of its client: ${Math.max(...waits).toFixed(0)} ms`);
    client.disconnect();
  });

  it('one whose image is gone says why to whoever starts it, and is not started again and again', async () => {
    await machine().addDisk('vm2-vda');
    await machine().exec(['rm', '/var/lib/xnbd/images/vm2-vda.img']);
    await assert.rejects(
      machine().hook('prepare', { name: 'vm2', uuid: randomUUID(), disks: ['vm2-vda'] }),
      /vm2-vda\.img/,
    );
    assert.equal(await machine().property('xnbd-export@vm2-vda.service', 'NRestarts'), '0');
  });

  it('ends with its guest', async () => {
    await machine().hook('stopped', vm);
    await machine().hook('release', vm);
    await waitFor(
      'the units to end',
      async () => (await machine().property(UNIT, 'ActiveState')) === 'inactive',
    );
    assert.equal(await machine().property(UNIT, 'Result'), 'success');
  });
});

async function told(machine: Machine, identifier: string): Promise<string> {
  return (await machine.journal('--identifier', identifier)).map(({ MESSAGE }) => MESSAGE).join('\n');
}
