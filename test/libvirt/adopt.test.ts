import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { applyAdopt, applyRelease, keepsReconnect, planAdopt, planRelease } from '../../src/libvirt/adopt.ts';
import { readDomain } from '../../src/libvirt/domain-xml.ts';
import type { ShutOffDomain } from '../../src/libvirt/shut-off-domain.ts';
import { readRecord, writeRecord } from '../../src/store/records/record.ts';

const cdrom = `<disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>`;

describe('adopt and release', () => {
  let directory: string;
  let paths: { images: string; exports: string; run: string };
  let image: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'xnbd-adopt-'));
    paths = { images: directory, exports: join(directory, 'exports'), run: join(directory, 'run') };
    await mkdir(paths.run);
    image = await makeImage('a & b.img');
  });
  afterEach(async () => {
    await rm(directory, { recursive: true });
  });

  async function makeImage(name: string, size = 1024 * 1024): Promise<string> {
    const path = join(directory, name);
    await writeFile(path, '');
    await truncate(path, size);
    return path;
  }
  const escaped = (path: string): string => path.replaceAll('&', '&amp;');
  const fileDisk = (
    path = image,
    target = 'vda',
    driver = "<driver name='qemu' type='raw' discard='unmap'/>",
  ): string =>
    `<disk type='file' device='disk'>
      ${driver}
      <source file='${escaped(path)}'/>
      <target dev='${target}' bus='virtio'/>
      <boot order='1'/>
    </disk>`;
  const domain = (
    ...disks: string[]
  ): string => `<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm1</name>
  <uuid>5cf1e1b6-7a43-4c3f-9a0d-0a4a2a6f1c11</uuid>
  <description>odd   spacing, "quotes", a comment <!-- <disk type='file'> --> and <![CDATA[ <cdata> ]]></description>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    ${disks.join('\n    ')}
    <graphics type='vnc' passwd="it's &lt;secret&gt;"	port='-1' />
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>
`;
  /** Stands in for libvirt, which keeps what it is given. */
  const defining = (definitions: string[], refuse = false): ShutOffDomain => ({
    xml: '',
    checkUnchanged: () => Promise.resolve(),
    read: () => Promise.resolve(definitions.at(-1) ?? ''),
    define: (xml) => {
      if (refuse) return Promise.reject(new Error('unsupported configuration'));
      definitions.push(xml);
      return Promise.resolve();
    },
    close: () => undefined,
  });

  it("changes the disk's type, driver and source and nothing else", async () => {
    const xml = domain(fileDisk(), cdrom);
    const plan = await planAdopt(xml, paths);
    const expected = domain(
      `<disk type='network' device='disk'>
      <driver name='qemu' type='raw' discard='unmap' cache='none' error_policy='stop' rerror_policy='stop'/>
      <source protocol='nbd' name='vm1-vda'>
        <host transport='unix' socket='${paths.run}/vm1-vda.sock'/>
        <reconnect delay='10'/>
      </source>
      <target dev='vda' bus='virtio'/>
      <boot order='1'/>
    </disk>`,
      cdrom,
    );
    assert.equal(plan.after, expected);
    assert.deepEqual(plan.skipped, ['sda: a cdrom']);
    assert.deepEqual(plan.disks, [{ target: 'vda', export: 'vm1-vda', image, sizeBytes: 1024 * 1024 }]);
    assert.deepEqual(
      readDomain(plan.after, paths.run).disks.map((disk) => disk.export),
      ['vm1-vda'],
    );
    assert.deepEqual(await readdir(directory), ['a & b.img', 'run'], 'a plan changes nothing');
  });

  it('names the exports of a domain whose name an export cannot have, or by the name that is given', async () => {
    const named = (name: string) => domain(fileDisk()).replace('<name>vm1</name>', `<name>${name}</name>`);
    for (const [name, base] of [
      ['my web server', 'my-web-server'],
      ['Café 2', 'Cafe-2'],
      ['(test) a&amp;b', 'test-a-b'],
    ] as const) {
      assert.equal((await planAdopt(named(name), paths)).disks[0]!.export, `${base}-vda`, name);
    }
    await assert.rejects(
      planAdopt(named('データベース'), paths),
      /no export can be named by it: .* --name NAME/,
    );
    const given = await planAdopt(named('データベース'), paths, 'db');
    assert.equal(given.disks[0]!.export, 'db-vda');
    assert.match(given.after, /<source protocol='nbd' name='db-vda'>/);
    await assert.rejects(planAdopt(named('x'), paths, '../x'), /export name '\.\.\/x-vda' is not usable/);
  });

  it('refuses a source whose attributes would be lost', async () => {
    const says = (attribute: string) => domain(fileDisk()).replace(/<source /, `<source ${attribute} `);
    await assert.rejects(
      planAdopt(says("startupPolicy='optional'"), paths),
      /startupPolicy='optional'.*remove it first/,
    );
    await assert.rejects(planAdopt(says("fdgroup='x'"), paths), /fdgroup='x'/);
    assert.equal((await planAdopt(says("startupPolicy='mandatory' index='1'"), paths)).disks.length, 1);
  });

  it('sees whether libvirt has kept that QEMU waits for an export', async () => {
    const plan = await planAdopt(domain(fileDisk(), cdrom, fileDisk(await makeImage('b.img'), 'vdb')), paths);
    assert.equal(keepsReconnect(plan.after, plan), true);
    // As libvirt 9.0 gives it back.
    assert.equal(keepsReconnect(plan.after.replaceAll(/<reconnect .*?>/g, ''), plan), false);
    assert.equal(keepsReconnect(plan.after.replace(/<reconnect .*?>/, ''), plan), false);
  });

  it('shows a difference that patch takes', async function () {
    if (spawnSync('patch', ['--version']).error !== undefined) {
      console.log('      skipped: patch is not installed (Debian package patch)');
      this.skip();
    }
    const second = await makeImage('b.img');
    const xml = domain(fileDisk(), cdrom, fileDisk(second, 'vdb', ''));
    const plan = await planAdopt(xml, paths);
    const file = join(directory, 'vm1.xml');
    await writeFile(file, xml);
    const patched = spawnSync('patch', ['--output=-', '--silent', file], {
      input: plan.diff,
      encoding: 'utf8',
    });
    assert.equal(patched.stdout, plan.after, patched.stderr);
  });

  it('writes a record for each disk, and release leads back', async () => {
    const xml = domain(fileDisk());
    const definitions: string[] = [];
    const plan = await planAdopt(xml, paths);
    await applyAdopt(defining(definitions), plan, paths);
    assert.deepEqual(definitions, [plan.after]);
    const record = await readRecord(join(paths.exports, 'vm1-vda'));
    assert.equal(record?.image, image);
    assert.equal(record.sizeBytes, 1024 * 1024);
    assert.equal(record.imageCreated, false);
    assert.equal(record.state, 'serving');

    const again = await planAdopt(plan.after, paths);
    assert.deepEqual([again.diff, again.disks, again.skipped], ['', [], ['vda: an xNBD disk already']]);

    const back = await planRelease(plan.after, paths);
    assert.equal(
      back.after,
      domain(
        fileDisk(
          image,
          'vda',
          "<driver name='qemu' type='raw' discard='unmap' cache='none' error_policy='stop' rerror_policy='stop'/>",
        ),
      ),
    );
    await applyRelease(defining(definitions), back, paths);
    assert.equal(definitions.at(-1), back.after);
    assert.deepEqual(await readdir(paths.exports), []);
    assert.ok((await readdir(directory)).includes('a & b.img'), 'the image stays');
  });

  it('takes the records back when libvirt refuses the definition', async () => {
    const plan = await planAdopt(domain(fileDisk()), paths);
    await assert.rejects(applyAdopt(defining([], true), plan, paths), /unsupported configuration/);
    assert.deepEqual(await readdir(paths.exports), []);
  });

  it('refuses what it cannot adopt, with the way out', async () => {
    const second = await makeImage('second.img');
    await symlink(image, join(directory, 'link.img'));
    const cases: [string, RegExp][] = [
      [
        fileDisk(image, 'vda', "<driver name='qemu' type='qcow2'/>"),
        /disk vda: its format is qcow2, .*qemu-img convert/,
      ],
      [fileDisk('/nowhere/x.img'), /disk vda: image \/nowhere\/x.img: ENOENT/],
      [fileDisk(directory), /is not a file, as type='file' says/],
      [fileDisk().replace('<boot', '<shareable/><boot'), /<shareable> is not possible/],
      [fileDisk(image, 'vda/../x'), /disk vda\/\.\.\/x: export name/],
      [
        `${fileDisk()}\n${fileDisk(join(directory, 'link.img'), 'vdb')}`,
        /disk vdb: its image .*link.img is also that of disk vda/,
      ],
      [
        fileDisk().replace("b.img'/>", "b.img'><seclabel model='dac' relabel='no'/></source>"),
        /its <source> has <seclabel>, which would be lost/,
      ],
      [
        fileDisk().replace('<target', "<backingStore type='file'><source file='/x'/></backingStore><target"),
        /it has a backing file; merge it first/,
      ],
    ];
    for (const [disk, reason] of cases) await assert.rejects(planAdopt(domain(disk), paths), reason);
    await assert.rejects(
      planAdopt(domain(fileDisk()).replace("type='kvm'", "type='xen'"), paths),
      /domain vm1 is Xen's/,
    );

    await applyAdopt(defining([]), await planAdopt(domain(fileDisk()), paths), paths);
    await assert.rejects(planAdopt(domain(fileDisk(second)), paths), /an export vm1-vda exists/);
    await assert.rejects(
      planAdopt(domain(fileDisk(join(directory, 'link.img'), 'vdb')), paths),
      /belongs to export vm1-vda already/,
    );
  });

  it('releases only what is complete, here and at rest', async () => {
    const plan = await planAdopt(domain(fileDisk()), paths);
    await assert.rejects(
      planRelease(plan.after, paths),
      /there is no export vm1-vda in .*: the disk lives on another host/,
    );
    await applyAdopt(defining([]), plan, paths);
    const stateDir = join(paths.exports, 'vm1-vda');
    const record = await readRecord(stateDir);
    await writeRecord(stateDir, { ...record!, state: 'fenced' });
    await assert.rejects(planRelease(plan.after, paths), /export vm1-vda is fenced/);
    await writeRecord(stateDir, record!);
    const control = createServer().listen(join(paths.run, 'vm1-vda.ctl'));
    await once(control, 'listening');
    await assert.rejects(planRelease(plan.after, paths), /export vm1-vda is running/);
    control.close();
    await once(control, 'close');
    assert.equal((await planRelease(plan.after, paths)).disks.length, 1);
  });
});
