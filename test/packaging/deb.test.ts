/** The Debian package on a Debian system: put on, used, upgraded, taken off, purged. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { installed } from '../lab/installed.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { waitFor } from '../lab/wait-for.ts';
import { buildPackages } from './built-packages.ts';
import { noRootHere, type ScratchRoot, scratchRoot } from './scratch-root.ts';

describe('the Debian package', function () {
  this.timeout(300_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let root: ScratchRoot;
  const first = '/packages/1/xnbd-libvirt_0.0.9_amd64.deb';
  const second = '/packages/2/xnbd-libvirt_0.1.0_amd64.deb';

  before(async function () {
    const why = noRootHere();
    if (why !== undefined) console.log(`      (${why})`);
    if (why !== undefined || !installed('dpkg', 'libvirtd', 'libvirt-dbus', 'x86_64-linux-gnu-strip'))
      this.skip();
    scratch = await temporaryDirectory();
    made.push(scratch);
    await buildPackages(join(scratch.path, '1'), { kinds: ['deb'], version: '0.0.9' });
    await buildPackages(join(scratch.path, '2'), { kinds: ['deb'], version: '0.1.0' });
    root = await scratchRoot('machine', scratch.path);
    made.push(root);
  });
  const made: { remove(): Promise<void> }[] = [];
  after(async () => {
    for (const each of made.reverse()) await each.remove();
  });

  const pidOfExport = async (): Promise<string> => (await root.sh('cat /tmp/export.pid')).output.trim();

  it('goes on, with its services enabled, its directories made, and nothing asked', async () => {
    const said = await root.ok(`dpkg -i ${first} </dev/null`);
    assert.match(said, /Setting up xnbd-libvirt \(0\.0\.9\)/);
    assert.doesNotMatch(said, /warning|failed|error/i);
    for (const unit of ['xnbdd', 'xnbd-gateway'])
      await root.ok(`test -L /etc/systemd/system/multi-user.target.wants/${unit}.service`);
    const modes = await root.ok('stat -c "%a %U %n" /var/lib/xnbd/images /etc/xnbd/xnbd.conf');
    assert.equal(modes, '711 root /var/lib/xnbd/images\n644 root /etc/xnbd/xnbd.conf\n');
  });

  it('has programs that run, a configuration that is right, and pages for each', async () => {
    for (const program of ['xnbdd', 'xnbd-export', 'xnbd-gateway', 'xnbdctl', 'xnbd-hook']) {
      assert.match(await root.ok(`${program} --version`), /^\d+\.\d+\.\d+\n$/);
      await root.ok(`test -s /usr/share/man/man8/${program}.8.gz`);
    }
    assert.equal(await root.ok('xnbdctl list'), 'no disks\n');
    assert.equal(await root.ok('xnbdctl list --in-use'), '');
  });

  it('says which line to run while libvirt runs and does not know its hook', async () => {
    // What the package asks of systemd, which does not run here, is answered by a script in its place.
    await root.ok(`mkdir -p /run/systemd/system /tmp/bin && cat >/tmp/bin/systemctl <<'END'
#!/bin/sh
case "$*" in *is-active*libvirtd.service*) exit 0 ;; *) exit 1 ;; esac
END
chmod 755 /tmp/bin/systemctl`);
    const notice = (what: string): Promise<string> =>
      root.ok(`PATH=/tmp/bin:$PATH /usr/lib/xnbd/maintainer/after-install ${what} 2>&1`);
    assert.match(
      await notice('first'),
      /does not know its new hook yet.*\n.* {2}systemctl restart libvirtd\n$/,
    );
    assert.doesNotMatch(
      (await root.sh('PATH=/tmp/bin:$PATH /usr/lib/xnbd/maintainer/after-install upgrade')).output,
      /restart libvirtd/,
    );
    // It found another hook when it started, so it asks for ours as well.
    await root.ok(
      'printf "#!/bin/sh\\n" >/etc/libvirt/hooks/qemu.d/other && chmod 755 /etc/libvirt/hooks/qemu.d/other',
    );
    await root.ok('cp /etc/libvirt/hooks/qemu.d/other /etc/libvirt/hooks/libxl');
    assert.doesNotMatch(
      (await root.sh('PATH=/tmp/bin:$PATH /usr/lib/xnbd/maintainer/after-install first')).output,
      /restart libvirtd/,
    );
    await root.ok('rm -r /run/systemd /tmp/bin /etc/libvirt/hooks/qemu.d/other /etc/libvirt/hooks/libxl');
  });

  it('is not taken off while a guest uses a disk, and says which', async () => {
    await root.ok('yes x | tr -d "\\n" | head -c 8M >/var/lib/xnbd/images/vm1-vda.img');
    await root.sh(
      'xnbd-export target vm1-vda --image /var/lib/xnbd/images/vm1-vda.img --socket /run/xnbd/vm1-vda.sock ' +
        '--ctl /run/xnbd/vm1-vda.ctl --state /var/lib/xnbd/exports/vm1-vda >/tmp/export.log 2>&1 & echo $! >/tmp/export.pid',
    );
    await waitFor('export', async () => (await root.sh('grep -q ^ready /tmp/export.log')).code === 0);
    // A guest, as far as an export can tell: reads a block each 0.1 s, by qemu-io.
    await root.sh(
      `(while true; do echo "read -P 0x78 0 512"; sleep 0.1; done) | qemu-io -f raw ` +
        `"nbd+unix:///vm1-vda?socket=/run/xnbd/vm1-vda.sock" >/tmp/guest.log 2>&1 & echo $! >/tmp/guest.pid`,
    );
    await waitFor('guest', async () => (await root.ok('xnbdctl list --in-use')) === 'vm1-vda\n');
    const { code, output } = await root.sh('dpkg -r xnbd-libvirt');
    assert.notEqual(code, 0);
    assert.match(output, /not removed, because disks are in use: vm1-vda/);
    assert.doesNotMatch(output, /new hook/);
    assert.match(await root.ok('dpkg -s xnbd-libvirt'), /^Status: \S+ ok installed$/m);
    // Nor when the configuration cannot be read.
    await root.ok('cp /etc/xnbd/xnbd.conf /tmp/kept; echo nonsense >>/etc/xnbd/xnbd.conf');
    assert.match((await root.sh('dpkg -r xnbd-libvirt')).output, /in use: vm1-vda/);
    await root.ok('cp /tmp/kept /etc/xnbd/xnbd.conf');
  });

  it('is upgraded under a guest, whose export goes on, and keeps what the administrator wrote', async () => {
    await root.ok('sed -i "s/^#level = info/level = debug/" /etc/xnbd/xnbd.conf');
    const before = await pidOfExport();
    const reads = async (): Promise<number> =>
      Number(await root.ok('grep -c "read 512/512" /tmp/guest.log || true'));
    await root.ok(`dpkg -i ${second} </dev/null`);
    assert.match(await root.ok('dpkg -s xnbd-libvirt'), /^Version: 0\.1\.0$/m);
    await root.ok('grep -q "^level = debug" /etc/xnbd/xnbd.conf');
    const read = await reads();
    await waitFor('reads after the upgrade', async () => (await reads()) > read + 5);
    assert.doesNotMatch(await root.ok('cat /tmp/guest.log'), /failed|error/i);
    const [status] = JSON.parse(await root.ok('xnbdctl status vm1-vda --json')) as { pid: number }[];
    assert.equal(String(status!.pid), before);
  });

  it('is taken off once no disk is in use, and purged, and every image is still there', async () => {
    await root.ok('kill $(cat /tmp/guest.pid); pkill -P $(cat /tmp/guest.pid) || true');
    await waitFor('end of guest', async () => (await root.ok('xnbdctl list --in-use')) === '');
    const sum = await root.ok('sha256sum /var/lib/xnbd/images/vm1-vda.img');
    await root.ok('kill $(cat /tmp/export.pid)');
    await root.ok('dpkg -r xnbd-libvirt');
    await root.ok('test ! -e /usr/bin/xnbdd && test ! -e /usr/lib/xnbd && test -e /etc/xnbd/xnbd.conf');
    const said = await root.ok('dpkg --purge xnbd-libvirt 2>&1');
    assert.match(said, /\/var\/lib\/xnbd is kept, because there is something in it/);
    assert.equal(await root.ok('sha256sum /var/lib/xnbd/images/vm1-vda.img'), sum);
    await root.ok('test ! -e /etc/xnbd && test ! -e /etc/libvirt/hooks/qemu.d/xnbd && test ! -e /run/xnbd');
    await root.ok('test ! -e /etc/systemd/system/multi-user.target.wants/xnbdd.service');
  });
});
