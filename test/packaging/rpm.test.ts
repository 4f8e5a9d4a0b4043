/** The RPM package in an empty root: a shell, the C library, and what the package brings. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { installed } from '../lab/installed.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { waitFor } from '../lab/wait-for.ts';
import { buildPackages } from './built-packages.ts';
import { noRootHere, type Ran, type ScratchRoot, scratchRoot } from './scratch-root.ts';

describe('the RPM package', function () {
  this.timeout(300_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let root: ScratchRoot;

  before(async function () {
    const why = noRootHere();
    if (why !== undefined) console.log(`      (${why})`);
    if (why !== undefined || !installed('rpm', 'rpmbuild', 'busybox', 'x86_64-linux-gnu-strip')) this.skip();
    scratch = await temporaryDirectory();
    made.push(scratch);
    await buildPackages(join(scratch.path, '1'), { kinds: ['rpm'], version: '0.0.9' });
    await buildPackages(join(scratch.path, '2'), { kinds: ['rpm'], version: '0.1.0' });
    root = await scratchRoot('bare', scratch.path);
    made.push(root);
  });
  const made: { remove(): Promise<void> }[] = [];
  after(async () => {
    for (const each of made.reverse()) await each.remove();
  });

  /** rpm of this machine on the root (which Debian's doubts): it enters the root for its scripts. */
  const rpm = (args: string): Promise<Ran> => root.outside(`rpm --root "$ROOT" --force-debian ${args}`);

  it('goes on, and its script runs', async () => {
    // There is no service manager here: what the script would tell it is written down.
    await root.ok(
      `printf '#!/bin/sh\\necho "$*" >>/tmp/systemctl\\n' >/bin/systemctl; chmod 755 /bin/systemctl`,
    );
    const { code, output } = await rpm(`-i --nodeps "$ROOT/packages/1/xnbd-libvirt-0.0.9-1.x86_64.rpm"`);
    assert.equal(output, '');
    assert.equal(code, 0);
    assert.equal(
      await root.ok('cat /tmp/systemctl'),
      '--no-reload preset xnbdd.service xnbd-gateway.service\n',
    );
    assert.match(await root.ok('xnbdctl --version'), /^\d+\.\d+\.\d+\n$/);
    assert.equal((await rpm('-V --nodeps xnbd-libvirt')).output, '');
    assert.match((await rpm('-qc xnbd-libvirt')).output, /^\/etc\/xnbd\/xnbd\.conf$/m);
  });

  it('is not taken off while another host depends on a disk, and says which', async () => {
    await root.ok(
      'mkdir -p /run/xnbd /var/lib/xnbd/images /var/lib/xnbd/exports; dd if=/dev/zero of=/var/lib/xnbd/images/a.img bs=1M count=4 2>/dev/null',
    );
    await root.sh(
      'xnbd-export target a --image /var/lib/xnbd/images/a.img --socket /run/xnbd/a.sock --ctl /run/xnbd/a.ctl ' +
        '--state /var/lib/xnbd/exports/a >/tmp/a.log 2>&1 & echo $! >/tmp/a.pid',
    );
    await waitFor('export', async () => (await root.sh('grep -q ^ready /tmp/a.log')).code === 0);
    await root.sh(
      'xnbd-export proxy b --image /tmp/b.img --socket /tmp/b.sock --origin "nbd+unix:///a?socket=/run/xnbd/a.sock" ' +
        '>/tmp/b.log 2>&1 & echo $! >/tmp/b.pid',
    );
    await waitFor('lease', async () => (await root.ok('xnbdctl list --in-use')) === 'a\n');
    const { code, output } = await rpm('-e xnbd-libvirt');
    assert.notEqual(code, 0);
    assert.match(output, /not removed, because disks are in use: a/);
    await root.ok('test -x /usr/bin/xnbdd');
  });

  it('is upgraded under a disk in use, and keeps what the administrator wrote', async () => {
    await root.ok('sed -i "s/^#level = info/level = debug/" /etc/xnbd/xnbd.conf');
    const { code, output } = await rpm(`-U --nodeps "$ROOT/packages/2/xnbd-libvirt-0.1.0-1.x86_64.rpm"`);
    assert.equal(output, '');
    assert.equal(code, 0);
    assert.equal((await rpm("-q --qf '%{version}' xnbd-libvirt")).output, '0.1.0');
    await root.ok('grep -q "^level = debug" /etc/xnbd/xnbd.conf && test -x /usr/lib/xnbd/node');
    await root.ok('kill -0 $(cat /tmp/a.pid) && kill -0 $(cat /tmp/b.pid)');
    assert.equal(await root.ok('xnbdctl list --in-use'), 'a\n');
  });

  it('is taken off once no disk is in use, and the image is still there', async () => {
    await root.ok('kill $(cat /tmp/b.pid)');
    await waitFor('end of the lease', async () => (await root.ok('xnbdctl list --in-use')) === '');
    await root.ok('kill $(cat /tmp/a.pid)');
    const { code, output } = await rpm('-e xnbd-libvirt');
    assert.equal(code, 0, output);
    await root.ok(
      'test ! -e /usr/lib/xnbd && test ! -e /usr/bin/xnbdd && test -s /var/lib/xnbd/images/a.img',
    );
  });
});
