import assert from 'node:assert/strict';
import fc from 'fast-check';
import { originMetadata, originNamespace, readDomain } from '../../src/libvirt/domain-xml.ts';

const uuid = '5cf1e1b6-7a43-4c3f-9a0d-0a4a2a6f1c11';
const run = '/run/xnbd';

function domain(devices: string, metadata = ''): string {
  return `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm1</name>
  <uuid>${uuid}</uuid>
  ${metadata && `<metadata>${metadata}</metadata>`}
  <devices>
    ${devices}
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>
`;
}

const nbdDisk = (name: string, socket: string, target = 'vda'): string => `<disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source protocol='nbd' name='${name}' index='1'><host transport='unix' socket='${socket}'/></source>
      <backingStore/>
      <target dev='${target}' bus='virtio'/>
    </disk>`;

describe('readDomain', () => {
  it("finds the disks on our sockets and none of the domain's others", () => {
    const others = [
      nbdDisk('vm1-vdz', '/run/other/vm1-vdz.sock'),
      nbdDisk('vm1-vdz', '/run/xnbd/deeper/vm1-vdz.sock'),
      nbdDisk('vm1-vdz', '/run/xnbd/vm1-vdz.ctl'),
      "<disk type='file'><source file='/run/xnbd/vm1-vdz.sock'/><target dev='vdb'/></disk>",
      "<disk type='block'><source dev='/dev/nbd0'/><target dev='vdc'/></disk>",
      "<disk type='network'><source protocol='nbd' name='x'><host name='a.example' port='10809'/></source><target dev='vdd'/></disk>",
      "<disk type='network'><source protocol='rbd' name='p/x'><host transport='unix' socket='/run/xnbd/x.sock'/></source><target dev='vde'/></disk>",
      "<disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>",
    ];
    const info = readDomain(
      domain([...others, nbdDisk('vm1-vda', '/run/xnbd/vm1-vda.sock')].join('\n')),
      run,
    );
    assert.deepEqual(info, {
      name: 'vm1',
      uuid,
      disks: [
        {
          export: 'vm1-vda',
          socket: '/run/xnbd/vm1-vda.sock',
          target: 'vda',
          blockDevice: null,
          readOnly: false,
          shareable: false,
        },
      ],
      origins: new Map(),
    });
  });

  it('finds block devices under /dev/xnbd', () => {
    const disk =
      "<disk type='block'><source dev='/dev/xnbd/vm1-xvda'/><target dev='xvda'/><readonly/></disk>";
    assert.deepEqual(readDomain(domain(disk), '/run/xnbd/').disks, [
      {
        export: 'vm1-xvda',
        socket: '/run/xnbd/vm1-xvda.sock',
        target: 'xvda',
        blockDevice: '/dev/xnbd/vm1-xvda',
        readOnly: true,
        shareable: false,
      },
    ]);
  });

  it('refuses a disk whose socket and name disagree', () => {
    assert.throws(
      () => readDomain(domain(nbdDisk('vm1-vdb', '/run/xnbd/vm1-vda.sock')), run),
      /^Error: domain vm1, disk vda: its socket vm1-vda.sock serves export vm1-vda, but it asks for 'vm1-vdb'; write /,
    );
    const nameless =
      "<disk type='network'><source protocol='nbd'><host transport='unix' socket='/run/xnbd/a.sock'/></source><target dev='vda'/></disk>";
    assert.throws(() => readDomain(domain(nameless), run), /asks for no name/);
  });

  it('refuses a name that is not usable, and two disks on one export', () => {
    assert.throws(
      () => readDomain(domain(nbdDisk('.x', '/run/xnbd/.x.sock')), run),
      /domain vm1, disk vda: export name/,
    );
    const twice = ['vda', 'vdb'].map((target) => nbdDisk('d', '/run/xnbd/d.sock', target)).join('');
    assert.throws(() => readDomain(domain(twice), run), /disks vda and vdb both use export d;/);
  });

  it('reads the origins of its disks, in the form that libvirt gives them', () => {
    const origins = `<other:thing xmlns:other='urn:other'><disk name='vm1-vda' uri='nbd://evil/x'/></other:thing>
      <xnbd:origin xmlns:xnbd="${originNamespace}">
        <xnbd:disk name="vm1-vda" uri="nbd://a.example:10809/vm1-vda" uuid="${uuid.toUpperCase()}" generation="4"/>
        <xnbd:disk name="gone" uri="nonsense" uuid="" generation=""/>
      </xnbd:origin>`;
    const info = readDomain(domain(nbdDisk('vm1-vda', '/run/xnbd/vm1-vda.sock'), origins), run);
    assert.deepEqual(
      [...info.origins],
      [['vm1-vda', { uri: 'nbd://a.example:10809/vm1-vda', uuid, generation: 4 }]],
    );
  });

  it('refuses an origin of its disks that is not usable', () => {
    for (const attributes of [
      `uri="file:///etc/passwd" uuid="${uuid}" generation="1"`,
      `uri="nbd://a/ b" uuid="${uuid}" generation="1"`,
      `uri="nbd://a/b" uuid="1" generation="1"`,
      `uri="nbd://a/b" uuid="${uuid}" generation="-1"`,
    ]) {
      const origin = `<xnbd:origin xmlns:xnbd="${originNamespace}"><disk name="a" ${attributes}/></xnbd:origin>`;
      assert.throws(
        () => readDomain(domain(nbdDisk('a', '/run/xnbd/a.sock'), origin), run),
        /domain vm1: <xnbd:origin> of a is not usable/,
      );
    }
  });

  const laughs = Array.from(
    { length: 9 },
    (_, level) => `<!ENTITY lol${level + 1} "${`&lol${level};`.repeat(10)}">`,
  ).join('');
  const hostile: Record<string, string> = {
    'a billion laughs': `<!DOCTYPE domain [<!ENTITY lol0 "lol">${laughs}]><domain><name>&lol9;</name></domain>`,
    'an external entity': `<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>`,
    'an external document type': `<!DOCTYPE domain SYSTEM "http://127.0.0.1/x.dtd">${domain('')}`,
    'an unknown entity': '<domain><name>&x;</name></domain>',
    'an unclosed element': '<domain><name>vm1</name>',
    'a wrong end tag': '<domain><name>vm1</domain></name>',
    'two roots': `${domain('')}<domain/>`,
    'the same attribute twice': "<domain type='a' type='b'/>",
    'an unbound prefix': '<domain><x:y/></domain>',
    'text alone': 'hello',
    nothing: '',
    'another root': '<network><name>default</name></network>',
    'no uuid': '<domain><name>vm1</name></domain>',
    'elements without end': '<domain>'.repeat(100_000),
    'too many elements': `<domain>${'<a/>'.repeat(200_000)}</domain>`,
    'too much': `<domain><!-- ${' '.repeat(5_000_000)} --></domain>`,
  };
  for (const [what, xml] of Object.entries(hostile)) {
    it(`refuses ${what} with one short line`, () => {
      assert.throws(
        () => readDomain(xml, run),
        (error: Error) =>
          error.message.length < 300 && /^[^\n]+$/.test(error.message) && /domain/.test(error.message),
      );
    });
  }
});

describe('originMetadata', () => {
  it('comes back whole through libvirt whatever the URI holds', () => {
    fc.assert(
      fc.property(
        fc.string({
          unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
          minLength: 1,
        }),
        fc.nat(),
        (path, generation) => {
          const origin = { uri: `nbd://a/${path}`, uuid, generation };
          const given = originMetadata([{ name: 'vm1-vda', ...origin }]);
          // What virDomainSetMetadata makes of it.
          const kept = given
            .replace('<origin>', `<xnbd:origin xmlns:xnbd="${originNamespace}">`)
            .replace('</origin>', '</xnbd:origin>')
            .replaceAll('<disk ', '<xnbd:disk ');
          const info = readDomain(domain(nbdDisk('vm1-vda', '/run/xnbd/vm1-vda.sock'), kept), run);
          assert.deepEqual(info.origins.get('vm1-vda'), origin);
        },
      ),
    );
  });

  it('refuses what XML cannot hold', () => {
    assert.throws(
      () => originMetadata([{ name: 'a\0b', uri: 'nbd://a/b', uuid, generation: 1 }]),
      /XML cannot hold/,
    );
  });
});
