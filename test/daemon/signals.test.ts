import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { Message } from 'dbus-next';
import { type Bus, openBus } from '../../src/system/bus.ts';
import { startPrivateBus } from '../lab/host/private-bus.ts';
import { TwoHosts } from '../lab/host/two-hosts.ts';
import { callExport } from '../lab/nbd/call-export.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('what the daemon tells on D-Bus of an arrival', function () {
  this.timeout(120_000);
  let ear: Bus;
  let two: TwoHosts;
  let heard: Message[];
  const undo: (() => Promise<void> | void)[] = [];

  beforeEach(async function () {
    const bus = await startPrivateBus();
    if (bus === undefined) {
      console.log('      skipped: dbus-daemon is missing (apt install dbus)');
      this.skip();
    }
    undo.push(() => bus.stop());
    heard = [];
    ear = await openBus(bus.address, () => undefined);
    undo.push(() => ear.close());
    ear.connection.on('message', (message: Message) => {
      if (message.interface === 'org.xnbd1.Manager') heard.push(message);
    });
    await ear.addMatch(`type='signal',interface='org.xnbd1.Manager'`);
    two = await TwoHosts.make({ busAddress: bus.address });
    undo.push(() => two.remove());
  });
  afterEach(async () => {
    for (const step of undo.splice(0).reverse()) await step();
  });

  const names = () => heard.map(({ member }) => member);

  async function property(path: string, iface: string, name: string): Promise<unknown> {
    const [variant] = await ear.call({
      destination: 'org.xnbd1',
      path,
      interface: 'org.freedesktop.DBus.Properties',
      member: 'Get',
      signature: 'ss',
      body: [iface, name],
    });
    return (variant as { value: unknown }).value;
  }

  it('started and completed, with the bytes of each disk', async () => {
    await two.arrive();
    const path = '/org/xnbd1/export/vm1_2dvda';
    await waitFor(
      'it stands by',
      async () => (await property(path, 'org.xnbd1.Export', 'State')) === 'standby',
    );
    assert.equal(await property(path, 'org.xnbd1.Export', 'Domain'), 'vm1');
    assert.deepEqual(names(), []);
    await two.leave();
    await waitFor('both are told', () => names().includes('RelocationCompleted'));
    assert.deepEqual(names(), ['RelocationStarted', 'RelocationCompleted']);
    const [relocation, domain, uuid, disks] = heard[1]!.body as [
      string,
      string,
      string,
      [string, bigint, bigint, bigint, number][],
    ];
    assert.equal(domain, 'vm1');
    assert.equal(uuid, two.vm.uuid);
    assert.deepEqual(disks.map(([name]) => name).sort(), two.vm.disks);
    for (const [, onDemand, background, skipped] of disks) {
      assert.equal(onDemand + background, BigInt(1024 * 1024));
      assert.equal(onDemand + background + skipped, BigInt(8 * 1024 * 1024));
    }
    assert.equal(await property(relocation, 'org.xnbd1.Relocation', 'State'), 'completed');
  });

  it('failed, with the reason', async () => {
    await two.arrive();
    await two.b.succeeds('stopped', two.vm);
    await two.b.succeeds('release', two.vm);
    await waitFor('it is told', () => names().includes('RelocationFailed'));
    assert.deepEqual(names(), ['RelocationFailed']);
    assert.match(String(heard[0]!.body[3]), /gave the migration up/);
  });

  it('failed, when an administrator gives up one of its disks: the others go with it', async () => {
    await two.arrive();
    await callExport(join(two.b.run, 'vm1-vdb.ctl'), 'abandon');
    await waitFor('it is told', () => names().includes('RelocationFailed'));
    await waitFor('B has nothing left', async () => (await two.b.left()).length === 0);
    await two.become(two.a, 'serving');
    assert.match(String(heard[0]!.body[3]), /vm1-vdb was given back/);
  });

  it('once, also when the daemon was away while it happened', async () => {
    await two.arrive();
    await two.b.stop('SIGKILL');
    await two.leave();
    await two.become(two.b, 'serving');
    assert.deepEqual(names(), []);
    await two.b.startDaemon();
    await waitFor('the end is told', () => names().includes('RelocationCompleted'));
    await two.b.stop('SIGKILL');
    await two.b.startDaemon();
    await two.b.stop();
    await two.b.startDaemon();
    assert.deepEqual(
      names().filter((name) => name === 'RelocationCompleted'),
      ['RelocationCompleted'],
    );
  });

  it('an origin that cannot be reached, with the reason, and that it is back', async () => {
    await two.arrive();
    const path = '/org/xnbd1/export/vm1_2dvda';
    const { pid } = await two.a.status('vm1-vda');
    process.kill(pid, 'SIGKILL');
    await waitFor('it is told', () => names().includes('OriginUnreachable'));
    const [object, name, origin, reason] = heard[0]!.body as string[];
    assert.deepEqual([object, name, origin], [path, 'vm1-vda', two.a.uri('vm1-vda')]);
    assert.match(reason!, /closed the connection|reset|EPIPE/);
    // A's daemon starts it again.
    await waitFor('it is back', () => names().includes('OriginReachable'));
    assert.deepEqual(heard.at(-1)!.body, [path, 'vm1-vda', two.a.uri('vm1-vda')]);
    await waitFor(
      'its properties say so',
      async () => (await property(path, 'org.xnbd1.Export', 'OriginUnreachableReason')) === '',
    );
    assert.equal(await property(path, 'org.xnbd1.Export', 'OriginReachable'), true);
    assert.deepEqual(names(), ['OriginUnreachable', 'OriginReachable']);
  });
});
