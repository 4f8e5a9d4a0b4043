/** A guest with an ordinary file disk becomes one of ours, moves with its disk, and becomes an ordinary guest again where it is then. */
import assert from 'node:assert/strict';
import { constants } from 'node:fs';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { defineGuest, type Guest } from '../lab/libvirt/guest.ts';
import type { Host } from '../lab/libvirt/host.ts';
import { createPatternImage, differences } from '../lab/libvirt/pattern.ts';
import { announced, arrived, signalsOf, wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

const ORDINARY = '/var/lib/libvirt/images/plain.img';
const SIZE = 64 * 1024 * 1024;

describe('a guest with an ordinary file disk', function () {
  this.timeout(180_000);
  const { sites, begin, story } = useSites();
  let guest: Guest;

  const definition = (host: Host): Promise<string> => host.virsh('dumpxml', '--inactive', guest.name);

  /** Changes a definition as `virsh edit` would. */
  async function edit(host: Host, change: (xml: string) => string): Promise<void> {
    const before = await definition(host);
    const after = change(before);
    assert.notEqual(after, before);
    await writeFile(host.outside('/run/lab/edited.xml'), after);
    await host.virsh('define', '/run/lab/edited.xml');
  }

  /** `xnbdctl adopt` or `release`, first without an answer to its question, then with --yes; what it printed then. */
  async function change(host: Host, verb: 'adopt' | 'release'): Promise<string> {
    const before = await definition(host);
    const asked = await host.exec(['xnbdctl', verb, guest.name], { check: false });
    assert.equal(asked.code, 1);
    assert.match(asked.stderr, /^xnbdctl: the change cannot be confirmed, .* --yes/);
    assert.equal(await definition(host), before);
    const { stdout } = await host.exec(['xnbdctl', verb, guest.name, '--yes']);
    assert.ok(stdout.startsWith(asked.stdout), 'the change is shown before it is made');
    return stdout;
  }

  const isOff = (host: Host) =>
    waitFor('the guest to be off', async () => (await host.virsh('domstate', guest.name)) === 'shut off');

  begin(async () => {
    const { lab, a } = sites();
    const image = a.host.outside(ORDINARY);
    await mkdir(dirname(image), { recursive: true });
    await createPatternImage(image, 'plain-vda', SIZE);
    const disk = { target: 'vda', export: 'plain-vda', mode: 'rewrite' } as const;
    guest = await defineGuest(lab, a.host, { name: 'plain', disks: [disk] });
    await edit(a.host, (xml) =>
      xml
        .replace("<disk type='network' device='disk'>", "<disk type='file' device='disk'>")
        .replace(/<source protocol='nbd'.*?<\/source>/s, `<source file='${ORDINARY}'/>`)
        .replace(" cache='none'", ''),
    );
  });

  story('becomes one of ours, moves, and becomes an ordinary one again', (step) => {
    step('is adopted: xnbdctl shows the change and makes it', async () => {
      const { a } = sites();
      assert.match(await definition(a.host), /<disk type='file' device='disk'>/);
      const shown = await change(a.host, 'adopt');
      assert.match(
        shown,
        /^vda: export plain-vda, image \/var\/lib\/libvirt\/images\/plain\.img \(64\.0 MiB\)$/m,
      );
      assert.match(shown, /^- +<disk type='file' device='disk'>$/m);
      assert.match(shown, /^\+ +<disk type='network' device='disk'>$/m);
      assert.match(shown, /^- +<source file='\/var\/lib\/libvirt\/images\/plain\.img'\/>$/m);
      assert.match(shown, /^\+ +<host transport='unix' socket='\/run\/xnbd\/plain-vda\.sock'\/>$/m);
      assert.match(shown, /^\+ +<reconnect delay='10'\/>$/m);
      assert.match(shown, /^the disks of plain are xNBD disks: plain-vda$/m);
      // libvirt 11 keeps it, 9.0 does not: the administrator is told.
      const kept = (await definition(a.host)).includes("<reconnect delay='10'/>");
      assert.equal(shown.includes('this libvirt does not keep <reconnect>'), !kept);
      assert.match(await definition(a.host), /<source protocol='nbd' name='plain-vda'[^>]*>/);
    });

    step('moves with its disk', async () => {
      const { a, b } = sites();
      await guest.start(a.host);
      await guest.progress();
      await announced(a, guest);
      await guest.migrate(a.host, b.host, '--live', '--persistent', '--undefinesource');
      await guest.progress();
      await arrived(b, guest);
      await waitFor('RelocationCompleted', () => signalsOf(sites(), b, guest).length === 2);
      assert.deepEqual(await wrongBytes(b, guest, await guest.powerOff()), []);
      await isOff(b.host);
    });

    step('is released where it is now, and boots from a file again', async () => {
      const { b } = sites();
      await waitFor('the end of the export', async () => (await b.processes()).size === 0);
      const shown = await change(b.host, 'release');
      assert.match(shown, /^the disks of plain are plain disks again: plain-vda$/m);
      const image = '/var/lib/xnbd/images/plain-vda.img';
      assert.match(await definition(b.host), new RegExp(`<source file='${image}'/>`));
      assert.deepEqual(await b.leftovers(), ['plain-vda.img']);

      // A guest that starts anew knows nothing of its earlier writes: it checks only what it writes itself.
      await edit(b.host, (xml) => xml.replace(/(xnbd\.vda=\w+:[0-9a-f]+):pattern/, '$1'));
      await copyFile(
        b.image('plain-vda'),
        b.host.outside('/var/lib/xnbd/before.img'),
        constants.COPYFILE_FICLONE,
      );
      await guest.start(b.host);
      await guest.progress();
      assert.equal((await b.processes()).size, 0);
      const { sizeBytes, writes } = (await guest.powerOff()).get('vda')!;
      assert.ok(writes.size > 8);
      assert.deepEqual(guest.errors, []);
      const initialImage = b.host.outside('/var/lib/xnbd/before.img');
      assert.deepEqual(
        await differences(b.image('plain-vda'), { exportName: 'plain-vda', sizeBytes, writes, initialImage }),
        [],
      );
    });
  });
});
