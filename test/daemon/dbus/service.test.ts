/** The service as another process would see it, on a real bus. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Message, MessageType, Variant } from 'dbus-next';
import { type ExportStatus, emptyStatus } from '../../../src/control/status.ts';
import { exportProperties, type RelocationStatus } from '../../../src/daemon/dbus/interfaces.ts';
import { DBusService } from '../../../src/daemon/dbus/service.ts';
import type { LimitsNow } from '../../../src/daemon/limits/limits.ts';
import { writeLine } from '../../../src/log/line.ts';
import { configureLog } from '../../../src/log/log.ts';
import type { Choice } from '../../../src/store/records/choices.ts';
import { type Bus, openBus } from '../../../src/system/bus.ts';
import { type PrivateBus, startPrivateBus } from '../../lab/host/private-bus.ts';
import { waitFor } from '../../lab/wait-for.ts';

type Dictionary = Record<string, Variant>;

const status: ExportStatus = {
  ...emptyStatus,
  name: 'vm1-vda',
  uuid: '5cf1e1b6-7a43-4c3f-9a0d-0a4a2a6f1c11',
  generation: 2,
  state: 'relocating',
  pid: 4711,
  sizeBytes: 6 * 1024 ** 4,
  presentBytes: 4096,
  onDemandBytes: 4096,
  secondsSinceTakeover: 1.5,
  origin: 'nbd://a.example:10809/vm1-vda',
  image: '/var/lib/xnbd/images/vm1-vda.img',
  socket: '/run/xnbd/vm1-vda.sock',
  clients: 1,
  writtenBytes: 512,
};

const relocation: RelocationStatus = {
  uuid: '0b0f7b46-6a4b-4d6e-8a43-111111111111',
  domain: 'vm1',
  domainUuid: '0b0f7b46-6a4b-4d6e-8a43-222222222222',
  state: 'relocating',
  disks: ['vm1-vda'],
  sizeBytes: 6 * 1024 ** 4,
  presentBytes: 4096,
  reason: null,
};

const exportPath = '/org/xnbd1/export/vm1_2dvda';
const relocationPath = '/org/xnbd1/relocation/0b0f7b46_6a4b_4d6e_8a43_111111111111';

const limits: LimitsNow = {
  caps: {
    host: { rate: 30e6, said: 'xnbd.conf' },
    peers: new Map([['site-b', { rate: null, said: 'xnbdctl limit' }]]),
  },
  paused: false,
  arriving: 3,
  queued: 1,
  rate: 29_000_000,
};

describe('DBusService', () => {
  let bus: PrivateBus;
  let service: DBusService;
  let client: Bus;
  let signals: { path: string; member: string; body: unknown[] }[];
  let taken: string[];
  let chosen: Choice[];
  let lost: string[];

  const options = (): Parameters<typeof DBusService.connect>[0] => ({
    address: bus.address,
    version: '0.1.0',
    limits: () => limits,
    choose: (choice) => {
      chosen.push(choice);
      return Promise.resolve();
    },
    call: async (name, method, parameters) => {
      if (method === 'set') return `${parameters['key']} of ${name} is ${parameters['value']}`;
      if (method === 'abandon')
        throw new Error(`export ${name} has acknowledged writes: it cannot be abandoned`);
      return await Promise.resolve(taken.push(`${method} ${name}`));
    },
    onClosed: (reason) => lost.push(reason),
  });
  const call = async (
    path: string,
    member: string,
    signature = '',
    body: unknown[] = [],
  ): Promise<unknown[]> => {
    const at = member.lastIndexOf('.');
    return await client.call({
      destination: 'org.xnbd1',
      path,
      interface: member.slice(0, at),
      member: member.slice(at + 1),
      signature,
      body,
    });
  };
  const properties = async (path: string, name: string): Promise<Record<string, unknown>> => {
    const [all] = (await call(path, 'org.freedesktop.DBus.Properties.GetAll', 's', [name])) as [Dictionary];
    return Object.fromEntries(Object.entries(all).map(([key, variant]) => [key, variant.value as unknown]));
  };
  const seen = (member: string): typeof signals => signals.filter((signal) => signal.member === member);

  beforeEach(async function () {
    configureLog({ sink: () => undefined });
    const started = await startPrivateBus();
    if (started === undefined) {
      console.log('      skipped: dbus-daemon is not installed (Debian package dbus)');
      this.skip();
    }
    bus = started;
    [signals, taken, chosen, lost] = [[], [], [], []];
    client = await openBus(bus.address, () => undefined);
    client.connection.on('message', (message: Message) => {
      if (message.type === MessageType.SIGNAL && message.path.startsWith('/org/xnbd1')) {
        signals.push({ path: message.path, member: message.member, body: message.body });
      }
    });
    await client.addMatch("type='signal',path_namespace='/org/xnbd1'");
    service = await DBusService.connect(options());
  });

  afterEach(async () => {
    service.close();
    client.close();
    await bus.stop();
    configureLog({ sink: writeLine });
  });

  it('shows an export with every property of its status, large numbers exact', async () => {
    service.setExport(status, 'vm1');
    assert.deepEqual(await properties(exportPath, 'org.xnbd1.Export'), {
      // Properties that nothing is said of here; those of the first release are written out.
      ...exportProperties(emptyStatus, ''),
      Name: 'vm1-vda',
      Uuid: status.uuid,
      Generation: 2n,
      State: 'relocating',
      Domain: 'vm1',
      Pid: 4711,
      SizeBytes: 6597069766656n,
      PresentBytes: 4096n,
      OnDemandBytes: 4096n,
      BackgroundBytes: 0n,
      SkippedBytes: 0n,
      SecondsSinceTakeover: 1.5,
      Origin: 'nbd://a.example:10809/vm1-vda',
      OriginReachable: true,
      OriginUnreachableSince: '',
      OriginUnreachableReason: '',
      OriginTimeoutSeconds: -1n,
      CopyPaused: '',
      BadBytes: 0n,
      OriginDataBytes: -1n,
      Image: status.image,
      Socket: status.socket,
      Clients: 1,
      Lease: '',
      MovedAt: '',
      MovedTo: '',
      WrittenBytes: 512n,
      VerificationState: '',
      VerificationComparedBytes: 0n,
      VerificationWrittenBytes: 0n,
      VerificationDifferentBytes: 0n,
      VerificationDoubtfulBytes: 0n,
      Error: '',
    });
  });

  it('lists its objects through ObjectManager, and tells of new ones and of those that go', async () => {
    service.setExport(status);
    service.setRelocation(relocation);
    const [objects] = (await call('/org/xnbd1', 'org.freedesktop.DBus.ObjectManager.GetManagedObjects')) as [
      Record<string, Record<string, Dictionary>>,
    ];
    assert.deepEqual(Object.keys(objects).sort(), [exportPath, relocationPath]);
    assert.equal(objects[exportPath]?.['org.xnbd1.Export']?.PresentBytes?.value, 4096n);
    assert.deepEqual(objects[relocationPath]?.['org.xnbd1.Relocation']?.Exports?.value, [exportPath]);
    service.removeExport(status.name);
    service.removeRelocation(relocation.uuid);
    service.removeRelocation(relocation.uuid);
    await waitFor('both are gone', () => seen('InterfacesRemoved').length === 2);
    assert.deepEqual(
      seen('InterfacesAdded').map(({ body }) => body[0]),
      [exportPath, relocationPath],
    );
    assert.deepEqual(
      seen('InterfacesRemoved').map(({ body }) => body),
      [
        [exportPath, ['org.xnbd1.Export']],
        [relocationPath, ['org.xnbd1.Relocation']],
      ],
    );
    await assert.rejects(properties(exportPath, 'org.xnbd1.Export'), /not exported/);
  });

  it('shows a comparison with the origin, and tells where it found differences', async () => {
    const verification = {
      state: 'differs',
      by: 'hashes',
      walkedBytes: 8192,
      comparedBytes: 4096,
      writtenBytes: 1,
      absentBytes: 2,
      differentBytes: 8192,
      different: [
        { offset: 4096, length: 4096 },
        { offset: 5_000_000_512, length: 4096 },
      ],
      doubtfulBytes: 3,
      doubtful: [],
      error: null,
    } as const;
    const differing = {
      ...status,
      verification: { ...verification, different: [...verification.different], doubtful: [] },
    };
    service.setExport({ ...differing, error: 'the disk differs' });
    service.verificationFailed({ ...differing, error: 'the disk differs' }, differing.verification);
    await waitFor('the signal', () => seen('VerificationFailed').length === 1);
    assert.deepEqual(seen('VerificationFailed')[0]?.body, [
      exportPath,
      'vm1-vda',
      8192n,
      [
        [4096n, 4096n],
        [5_000_000_512n, 4096n],
      ],
      'the disk differs',
    ]);
    const shown = await properties(exportPath, 'org.xnbd1.Export');
    assert.equal(shown['VerificationState'], 'differs');
    assert.equal(shown['VerificationDifferentBytes'], 8192n);
    assert.equal(shown['VerificationDoubtfulBytes'], 3n);
  });

  it('can be introspected', async () => {
    service.setExport(status);
    const [xml] = (await call(exportPath, 'org.freedesktop.DBus.Introspectable.Introspect')) as [string];
    assert.match(xml, /<method name="Takeover">|<method name="Takeover"\/>/);
    assert.match(xml, /<property name="PresentBytes" type="t" access="read"\/>/);
    const [manager] = (await call('/org/xnbd1', 'org.freedesktop.DBus.Introspectable.Introspect')) as [
      string,
    ];
    assert.match(manager, /<signal name="RelocationCompleted">[\s\S]*type="a\(stttd\)"/);
    assert.match(manager, /<method name="GetManagedObjects">/);
  });

  it('is documented, every member of it', async () => {
    service.setExport(status);
    service.setRelocation(relocation);
    const documents = await readFile(join(import.meta.dirname, '../../../docs/reference.md'), 'utf8');
    for (const path of ['/org/xnbd1', exportPath, relocationPath]) {
      const [xml] = (await call(path, 'org.freedesktop.DBus.Introspectable.Introspect')) as [string];
      const ours = xml.match(/<interface name="org\.xnbd1\.[\s\S]*?<\/interface>/g) ?? [];
      const members = [...ours.join('').matchAll(/<(?:method|signal|property) name="(\w+)"/g)].map(
        ([, name]) => name!,
      );
      assert.ok(members.length > 0);
      for (const name of members)
        assert.match(documents, new RegExp(`\\b${name}\\b`), `${path}: ${name} is not in docs/reference.md`);
    }
  });

  it('shows the limits of the host, and what changes of them', async () => {
    const shown = {
      Version: '0.1.0',
      Rate: '30M',
      PeerRates: { 'site-b': 'none' },
      Paused: false,
      Arriving: 3,
      Queued: 1,
      ArrivalRate: 29_000_000n,
    };
    assert.deepEqual(await properties('/org/xnbd1', 'org.xnbd1.Manager'), shown);
    service.setLimits({ ...limits, paused: true, queued: 0 });
    await waitFor('the signal', () => seen('PropertiesChanged').length === 1);
    const [of, changed] = seen('PropertiesChanged')[0]!.body as [string, Dictionary];
    assert.deepEqual([of, Object.keys(changed).sort()], ['org.xnbd1.Manager', ['Paused', 'Queued']]);
    assert.equal((await properties('/org/xnbd1', 'org.xnbd1.Manager'))['Paused'], true);
  });

  it('lets root set the limits of the host, of a peer and of a disk', async () => {
    service.setExport(status);
    const set = async (property: string, value: Variant): Promise<unknown> =>
      call('/org/xnbd1', 'org.freedesktop.DBus.Properties.Set', 'ssv', [
        'org.xnbd1.Manager',
        property,
        value,
      ]);
    await set('Rate', new Variant('s', '20M'));
    await set('Rate', new Variant('s', 'default'));
    await set('Paused', new Variant('b', true));
    await call('/org/xnbd1', 'org.xnbd1.Manager.SetPeerRate', 'ss', ['site-b', 'none']);
    assert.deepEqual(chosen, [
      { of: 'host', rate: 20e6 },
      { of: 'host', rate: undefined },
      { of: 'all', paused: true },
      { of: 'peer', peer: 'site-b', rate: null },
    ]);
    assert.deepEqual(await call(exportPath, 'org.xnbd1.Export.Set', 'ss', ['weight', '200']), [
      'weight of vm1-vda is 200',
    ]);
    await assert.rejects(set('Rate', new Variant('s', 'fast')), /rate = fast: allowed is a rate in bit\/s/);
    await assert.rejects(set('Rate', new Variant('t', 20n)), /Rate is of type s/);
    await assert.rejects(set('Queued', new Variant('u', 0)), {
      type: 'org.freedesktop.DBus.Error.PropertyReadOnly',
    });
    await assert.rejects(
      call(exportPath, 'org.xnbd1.Export.Set', 's', ['weight']),
      /Set takes arguments of type ss/,
    );
    assert.equal(chosen.length, 4);
  });

  it('announces what changed and nothing else, at most twice a second, the last value always', async () => {
    service.setExport(status);
    const start = performance.now();
    for (let block = 1; block <= 1000; block += 1) {
      service.setExport({ ...status, presentBytes: block * 4096 });
      if (block % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const present = (): unknown[] =>
      seen('PropertiesChanged').map(({ body }) => (body[1] as Dictionary).PresentBytes?.value as unknown);
    await waitFor('the last value', () => present().at(-1) === 4_096_000n);
    const seconds = (performance.now() - start) / 1000;
    assert.ok(present().length <= 1 + 2 * seconds, `${present().length} announcements in ${seconds} s`);
    for (const { body } of seen('PropertiesChanged')) {
      assert.equal(body[0], 'org.xnbd1.Export');
      assert.deepEqual(Object.keys(body[1] as Dictionary), ['PresentBytes']);
    }
    service.setExport({ ...status, presentBytes: 4_096_000 });
    await new Promise((resolve) => setTimeout(resolve, 700));
    assert.equal(present().at(-1), 4_096_000n);
  });

  it('sends the three signals of the manager, after the changes that led to them', async () => {
    service.setExport(status);
    service.setRelocation(relocation);
    service.relocationStarted(relocation);
    service.setExport({ ...status, state: 'serving' });
    service.relocationCompleted(relocation, [
      {
        name: 'vm1-vda',
        onDemandBytes: 4096,
        backgroundBytes: 5_000_000_000,
        skippedBytes: 0,
        secondsSinceTakeover: 61.25,
      },
      { name: 'vm1-vdb', onDemandBytes: 0, backgroundBytes: 0, skippedBytes: 1, secondsSinceTakeover: 0 },
    ]);
    service.relocationFailed(relocation, 'the guest stayed where it was');
    await waitFor('the last signal', () => seen('RelocationFailed').length === 1);
    const { domain, domainUuid } = relocation;
    assert.deepEqual(seen('RelocationStarted')[0]?.body, [relocationPath, domain, domainUuid]);
    assert.deepEqual(seen('RelocationCompleted')[0]?.body, [
      relocationPath,
      domain,
      domainUuid,
      [
        ['vm1-vda', 4096n, 5_000_000_000n, 0n, 61.25],
        ['vm1-vdb', 0n, 0n, 1n, 0],
      ],
    ]);
    assert.deepEqual(seen('RelocationFailed')[0]?.body, [
      relocationPath,
      domain,
      domainUuid,
      'the guest stayed where it was',
    ]);
    const order = signals.map(({ member }) => member);
    assert.ok(order.indexOf('PropertiesChanged') < order.indexOf('RelocationCompleted'), order.join(' '));
  });

  it('signals an alarm of a disk that comes', async () => {
    const alarm = 'nothing has come for 30 s, and no reason is known';
    service.setExport({ ...status, alarm });
    service.relocationAlarm(status, alarm);
    await waitFor('the signal', () => seen('RelocationAlarm').length === 1);
    assert.deepEqual(seen('RelocationAlarm')[0]?.body, [exportPath, 'vm1-vda', alarm]);
    assert.equal((await properties(exportPath, 'org.xnbd1.Export'))['Alarm'], alarm);
  });

  it('carries out Takeover, and gives the reason where a method fails', async () => {
    service.setExport(status);
    assert.deepEqual(await call(exportPath, 'org.xnbd1.Export.Takeover'), []);
    assert.deepEqual(await call(exportPath, 'org.xnbd1.Export.Verify'), []);
    assert.deepEqual(await call(exportPath, 'org.xnbd1.Export.Accept'), []);
    assert.deepEqual(taken.splice(1), ['verify vm1-vda', 'accept vm1-vda']);
    assert.deepEqual(taken, ['takeover vm1-vda']);
    await assert.rejects(call(exportPath, 'org.xnbd1.Export.Abandon'), {
      type: 'org.xnbd1.Error.Failed',
      text: 'export vm1-vda has acknowledged writes: it cannot be abandoned',
    });
    await assert.rejects(call(exportPath, 'org.xnbd1.Export.Takeover', 's', ['x']), /takes no arguments/);
    await assert.rejects(call('/org/xnbd1/export/other', 'org.xnbd1.Export.Takeover'), /does not exist/);
    assert.deepEqual(taken, ['takeover vm1-vda']);
  });

  it('lets nobody set a property', async () => {
    service.setExport(status);
    await assert.rejects(
      call(exportPath, 'org.freedesktop.DBus.Properties.Set', 'ssv', [
        'org.xnbd1.Export',
        'State',
        new Variant('s', 'serving'),
      ]),
      { type: 'org.freedesktop.DBus.Error.PropertyReadOnly' },
    );
    assert.equal((await properties(exportPath, 'org.xnbd1.Export')).State, 'relocating');
  });

  it('refuses the methods to other users, on a bus that lets everyone through', async function () {
    if (process.getuid?.() !== 0) {
      console.log('      skipped: only root can become another user');
      this.skip();
    }
    service.setExport(status);
    const result = await sendAsNobody(bus.address, [exportPath, 'org.xnbd1.Export.Takeover']);
    if (result === undefined) {
      console.log('      skipped: dbus-send is not installed (Debian package dbus-bin)');
      this.skip();
    }
    assert.match(result, /AccessDenied: Takeover of export vm1-vda is for root only; user 65534 asked/);
    for (const [asked, refused] of [
      [['org.xnbd1.Manager.SetPeerRate', 'string:site-b', 'string:none'], /SetPeerRate is for root only/],
      [
        [
          'org.freedesktop.DBus.Properties.Set',
          'string:org.xnbd1.Manager',
          'string:Rate',
          'variant:string:1G',
        ],
        /setting Rate is for root only/,
      ],
    ] as const)
      assert.match((await sendAsNobody(bus.address, ['/org/xnbd1', ...asked])) ?? '', refused);
    assert.deepEqual([...taken, ...chosen], []);
  });

  it('says who has the name', async () => {
    await assert.rejects(
      DBusService.connect(options()),
      /owned by another process on this bus: stop the other xnbdd/,
    );
  });

  it('tells the death of the bus once, and survives being called after it', async () => {
    service.setExport(status);
    await bus.stop();
    await waitFor('the word', () => lost.length === 1);
    service.setExport({ ...status, state: 'serving' });
    service.relocationStarted(relocation);
    service.removeExport(status.name);
    await new Promise((resolve) => setTimeout(resolve, 700));
    assert.equal(lost.length, 1);
    await assert.rejects(DBusService.connect(options()), /D-Bus at unix:path=/);
  });
});

describe('etc/org.xnbd1.conf', () => {
  /** What the system bus allows by default (its system.conf), and our file. */
  const policy = `<policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <include>${join(import.meta.dirname, '../../../etc/org.xnbd1.conf')}</include>`;

  it('lets root run the daemon and everyone look, but call no method', async function () {
    const uid = process.getuid?.();
    const bus = uid === 0 ? await startPrivateBus(policy) : undefined;
    if (bus === undefined) {
      console.log('      skipped: needs root and dbus-daemon (Debian package dbus)');
      this.skip();
    }
    const taken: string[] = [];
    const service = await DBusService.connect({
      address: bus.address,
      version: '0.1.0',
      limits: () => limits,
      choose: () => Promise.resolve(),
      call: (name) => Promise.resolve(void taken.push(name)),
      onClosed: () => undefined,
    });
    try {
      service.setExport(status);
      const read = 'org.freedesktop.DBus.Properties.Get';
      const state = ['string:org.xnbd1.Export', 'string:State'];
      const looked = await sendAsNobody(bus.address, [exportPath, read, ...state]);
      if (looked === undefined) {
        console.log('      skipped: dbus-send is not installed (Debian package dbus-bin)');
        this.skip();
      }
      assert.match(looked, /string "relocating"/);
      assert.match(
        (await sendAsNobody(bus.address, [
          '/org/xnbd1',
          'org.freedesktop.DBus.ObjectManager.GetManagedObjects',
        ])) ?? '',
        /object path "\/org\/xnbd1\/export\/vm1_2dvda"/,
      );
      assert.match(
        (await sendAsNobody(bus.address, [exportPath, 'org.xnbd1.Export.Takeover'])) ?? '',
        /AccessDenied: Rejected send message/,
      );
      assert.deepEqual(taken, []);
    } finally {
      service.close();
      await bus.stop();
    }
  });
});

/**
 * What dbus-send prints, run as nobody; not blocking, for the service answers in this process. undefined when
 * it is not there.
 */
async function sendAsNobody(address: string, parameters: string[]): Promise<string | undefined> {
  if (spawnSync('dbus-send', ['--version']).error !== undefined) return undefined;
  const child = spawn('dbus-send', [`--bus=${address}`, '--print-reply', '--dest=org.xnbd1', ...parameters], {
    uid: 65_534,
    gid: 65_534,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  child.stdout.on('data', (chunk) => (text += String(chunk)));
  child.stderr.on('data', (chunk) => (text += String(chunk)));
  await once(child, 'close');
  return text;
}
