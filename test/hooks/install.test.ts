/** What scripts/install.sh puts where. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };

const run = promisify(execFile);
const top = join(import.meta.dirname, '../..');

describe('the installation', function () {
  this.timeout(60_000);
  let root: string;
  const install = () =>
    run('sh', [join(top, 'scripts/install.sh')], { env: { ...process.env, DESTDIR: root } });

  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'xs-'));
    await install();
  });
  after(() => rm(root, { recursive: true }));

  for (const program of ['xnbdd', 'xnbd-export', 'xnbd-gateway', 'xnbdctl', 'xnbd-hook']) {
    it(`has ${program} as a file in /usr/bin: AppArmor counts the path where a link leads to`, async () => {
      const file = await lstat(join(root, 'usr/bin', program));
      assert.ok(file.isFile());
      assert.equal(file.mode & 0o777, 0o755);
    });
  }

  it('has Node once, no headers and no sources, and programs that run and say their version', async () => {
    const files = (await readdir(join(root, 'usr/lib/xnbd'), { recursive: true })).sort();
    assert.deepEqual(
      files.filter((file) => /\.(h|hh|hpp|c|cc|cpp|ts|map)$/.test(file)),
      [],
    );
    assert.deepEqual(
      files.filter((file) => /(^|\/)node$/.test(file)),
      ['node'],
    );
    for (const program of ['xnbdd', 'xnbd-export', 'xnbd-gateway', 'xnbdctl', 'xnbd-hook']) {
      const lib = join(root, 'usr/lib/xnbd');
      const { stdout } = await run(join(lib, 'node'), [join(lib, 'bin', program), '--version']);
      assert.equal(stdout, `${packageJson.version}\n`, program);
    }
  });

  it('keeps a configuration that is there, and nothing of an earlier installation', async () => {
    const [config, left] = [join(root, 'etc/xnbd/xnbd.conf'), join(root, 'usr/lib/xnbd/dist/bin/xnbdd')];
    const hidden = join(root, 'etc/systemd/system/xnbdd.service');
    await writeFile(config, '# mine\n');
    for (const path of [left, hidden]) {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, '');
    }
    await install();
    assert.equal(await readFile(config, 'utf8'), '# mine\n');
    for (const path of [left, hidden]) await assert.rejects(lstat(path), { code: 'ENOENT' });
  });

  it('refuses where the package is', async () => {
    await mkdir(join(root, 'var/lib/dpkg/info'), { recursive: true });
    await writeFile(join(root, 'var/lib/dpkg/info/xnbd-libvirt.list'), '');
    await assert.rejects(install(), /the package xnbd-libvirt is installed/);
    await rm(join(root, 'var/lib/dpkg'), { recursive: true });
  });

  for (const driver of ['qemu', 'libxl']) {
    it(`has a hook for ${driver} that says to xnbd-hook which driver called it`, async () => {
      const hook = join(root, 'etc/libvirt/hooks', `${driver}.d/xnbd`);
      assert.ok((await lstat(hook)).isFile());
      const called = run(hook, ['vm1', 'prepare', 'begin', '-'], { env: { XNBD_HOOK: '/bin/echo' } });
      called.child.stdin!.end("<source path='/run/xnbd/vm1-vda.sock'/>");
      const said = (await called).stdout;
      assert.equal(said, `${driver} vm1 prepare begin - --socket /run/xnbd/hook.sock\n`);
    });
  }
});
