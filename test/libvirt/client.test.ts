/** Against the real libvirt-dbus and libvirt's own test driver, on a private bus. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { applyAdopt, applyRelease, planAdopt, planRelease } from '../../src/libvirt/adopt.ts';
import { domainPath } from '../../src/libvirt/calls.ts';
import { type ActiveDomain, type DomainEvent, LibvirtClient } from '../../src/libvirt/client.ts';
import { originMetadata, originNamespace, readDomain } from '../../src/libvirt/domain-xml.ts';
import { openShutOffDomain } from '../../src/libvirt/shut-off-domain.ts';
import { writeLine } from '../../src/log/line.ts';
import { configureLog } from '../../src/log/log.ts';
import { type Bus, openBus } from '../../src/system/bus.ts';
import { end, type PrivateBus, startPrivateBus } from '../lab/host/private-bus.ts';
import { waitFor } from '../lab/wait-for.ts';

/** The one domain of test:///default. */
const testUuid = '6695eb01-f6a4-8304-79aa-97f2502e193f';

describe('LibvirtClient', () => {
  let bus: PrivateBus;
  let libvirtDBus: ChildProcess;
  let other: Bus;
  let client: LibvirtClient;
  let events: DomainEvent[];
  let lists: (readonly ActiveDomain[])[];

  const startLibvirtDBus = async (): Promise<boolean> => {
    libvirtDBus = spawn('libvirt-dbus', ['--system'], {
      env: { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: bus.address },
      stdio: 'ignore',
    });
    return await new Promise((resolve) => {
      libvirtDBus.once('spawn', () => resolve(true)).once('error', () => resolve(false));
    });
  };
  const domainCall = async (member: string, signature = '', body: unknown[] = []): Promise<void> => {
    await other.call({
      destination: 'org.libvirt',
      path: domainPath('Test', testUuid),
      interface: 'org.libvirt.Domain',
      member,
      signature,
      body,
    });
  };

  beforeEach(async function () {
    configureLog({ sink: () => undefined });
    const started = await startPrivateBus();
    if (started === undefined) {
      console.log('      skipped: dbus-daemon is not installed (Debian package dbus)');
      this.skip();
    }
    bus = started;
    if (!(await startLibvirtDBus())) {
      await bus.stop();
      console.log('      skipped: libvirt-dbus is not installed (Debian package libvirt-dbus)');
      this.skip();
    }
    other = await openBus(bus.address, () => undefined);
    events = [];
    lists = [];
    client = new LibvirtClient({
      address: bus.address,
      drivers: ['Test', 'Xen'],
      interval: 200,
    });
    client.on('event', (event) => events.push(event));
    client.on('domains', (domains) => lists.push(domains));
    client.start();
    await waitFor('the client knows the domains', () => lists.length > 0);
  });

  afterEach(async () => {
    client.close();
    other.close();
    await end(libvirtDBus);
    await bus.stop();
    configureLog({ sink: writeLine });
  });

  it('tells which domains are active, and their events', async () => {
    assert.deepEqual(lists, [[{ uuid: testUuid, name: 'test', state: 1 }]]);
    await domainCall('Suspend');
    await domainCall('Resume');
    await waitFor('two events', () => events.length === 2);
    assert.deepEqual(events, [
      { uuid: testUuid, name: 'test', event: 3, detail: 0 },
      { uuid: testUuid, name: 'test', event: 4, detail: 0 },
    ]);
  });

  it('tells of a change whose event it could not see', async () => {
    await domainCall('Suspend');
    await waitFor('the pause is in the list', () => lists.at(-1)?.[0]?.state === 3);
  });

  it('writes the origins where the live XML has them, in our namespace', async () => {
    const disks = [
      { name: 'vm1-vda', uri: "nbd://a.example:10809/x?a=1&b='2'", uuid: testUuid, generation: 3 },
    ];
    await client.setOriginMetadata(testUuid, originMetadata(disks));
    const xml = await client.domainXml(testUuid);
    assert.match(xml, new RegExp(`<xnbd:origin xmlns:xnbd="${originNamespace}">`));
    assert.match(xml, /uri="nbd:\/\/a\.example:10809\/x\?a=1&amp;b='2'" /);
    disks[0]!.generation = 4;
    await client.setOriginMetadata(testUuid, originMetadata(disks));
    const again = await client.domainXml(testUuid);
    assert.match(again, /generation="4"/);
    assert.doesNotMatch(again, /generation="3"/);
  });

  it('passes on what libvirt says of a domain that is not there', async () => {
    await assert.rejects(client.domainXml('6695eb01-f6a4-8304-79aa-000000000000'), {
      type: 'org.libvirt.Error',
      text: 'Domain not found',
    });
  });

  it('comes back to a libvirt-dbus that was killed', async () => {
    await end(libvirtDBus);
    await assert.rejects(client.domainXml(testUuid));
    const before = lists.length;
    assert.ok(await startLibvirtDBus());
    await waitFor('a list from the new libvirt-dbus', () => lists.length > before);
    await domainCall('Suspend');
    await waitFor('its event', () => events.length > 0);
  });

  it('comes back to a bus that was restarted', async () => {
    await bus.restart();
    await assert.rejects(client.domainXml(testUuid), /libvirt-dbus does not answer/);
    await end(libvirtDBus);
    const before = lists.length;
    assert.ok(await startLibvirtDBus());
    await waitFor('a list over the new bus', () => lists.length > before);
  });

  it('opens a shut-off domain for adoption, and only that', async () => {
    const open = () => openShutOffDomain(bus.address, 'test', 'Test');
    await assert.rejects(open(), /domain test runs; shut it down first/);
    await assert.rejects(
      openShutOffDomain(bus.address, 'nobody', 'Test'),
      /there is no domain nobody; see virsh list/,
    );
    await domainCall('Destroy', 'u', [0]);
    await waitFor('no domain is active', () => lists.at(-1)?.length === 0);

    const image = join(bus.directory, 'disk.img');
    await writeFile(image, Buffer.alloc(512 * 64));
    const paths = { images: bus.directory, exports: join(bus.directory, 'exports'), run: '/run/xnbd' };
    const domain = await open();
    await domain.define(domain.xml.replace('/guest/diskimage1', image));
    await assert.rejects(domain.checkUnchanged(domain.xml), /was changed meanwhile/);
    domain.close();

    const adopted = await open();
    const plan = await planAdopt(adopted.xml, paths);
    await applyAdopt(adopted, plan, paths);
    adopted.close();
    const released = await open();
    assert.deepEqual(
      readDomain(released.xml, paths.run).disks.map((disk) => [disk.export, disk.target]),
      [['test-vda', 'vda']],
    );
    const back = await planRelease(released.xml, paths);
    await applyRelease(released, back, paths);
    released.close();
    const last = await open();
    assert.deepEqual(readDomain(last.xml, paths.run).disks, []);
    assert.ok(last.xml.includes(`<source file='${image}'/>`), last.xml);
    last.close();
  });

  it('starts without a bus, and says so to who asks', async () => {
    const lone = new LibvirtClient({
      address: `${bus.address}-nowhere`,
    });
    lone.start();
    await assert.rejects(lone.setOriginMetadata(testUuid, '<origin/>'), /libvirt-dbus does not answer/);
    lone.close();
  });
});
