/** What those who know say of our packages: lintian, rpmlint, systemd, AppArmor, man, the shells. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { hostFiles } from '../../scripts/package/host-files.ts';
import { installed } from '../lab/installed.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { buildPackages, top } from './built-packages.ts';

const run = promisify(execFile);

/** Standard output and error, whatever the exit code. */
async function said(program: string, args: readonly string[]): Promise<string> {
  return await new Promise((resolve) => {
    execFile(program, args, (_error, stdout, stderr) => resolve(stdout + stderr));
  });
}

describe('what is packaged', function () {
  this.timeout(300_000);
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let packages: string[];
  /** The files of the Debian package. */
  let root: string;
  const made: { remove(): Promise<void> }[] = [];

  before(async function () {
    if (!installed('dpkg-deb', 'rpmbuild', 'x86_64-linux-gnu-strip')) this.skip();
    scratch = await temporaryDirectory();
    made.push(scratch);
    packages = await buildPackages(join(scratch.path, 'out'));
    root = join(scratch.path, 'root');
    await run('dpkg-deb', ['-x', packages.find((path) => path.endsWith('.deb'))!, root]);
  });
  after(async () => {
    for (const each of made) await each.remove();
  });

  it('is all that lies in packaging/, but for what only builds packages', () => {
    const placed = new Set(hostFiles().flatMap(({ from }) => ('file' in from ? [from.file] : [])));
    const builds = /^packaging\/(deb|rpm|man)\//;
    const left = globSync('packaging/**', { cwd: top, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .filter((path) => !placed.has(path) && !builds.test(path.slice(top.length + 1)));
    assert.deepEqual(left, []);
  });

  it('is of one architecture: every ELF file', () => {
    const elves = globSync(`${root}/**`, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => readFileSync(join(entry.parentPath, entry.name)))
      .filter((content) => content.subarray(0, 4).toString('latin1') === '\x7fELF');
    assert.equal(elves.length, 3);
    const EM_X86_64 = 62;
    for (const content of elves) assert.equal(content.readUInt16LE(18), EM_X86_64);
  });

  it('is well with lintian, but for overrides that have a reason', async function () {
    if (!installed('lintian')) this.skip();
    const deb = packages.find((path) => path.endsWith('.deb'))!;
    const tags = await said('lintian', ['--no-cfg', '--allow-root', '--tag-display-limit', '0', deb]);
    assert.equal(tags, '');
    const overrides = await readFile(join(top, 'packaging/lintian-overrides'), 'utf8');
    let reason = '';
    for (const line of overrides.trim().split('\n')) {
      assert.ok(line.startsWith('#') || reason.startsWith('#'), `${line}: without a reason`);
      reason = line;
    }
  });

  it('is well with rpmlint', async function () {
    if (!installed('rpmlint')) this.skip();
    const rpm = packages.find((path) => path.endsWith('.rpm'))!;
    const tags = await said('rpmlint', ['-c', join(top, 'packaging/rpm/rpmlintrc.toml'), rpm]);
    assert.match(tags, /\b0 errors, 0 warnings\b/, tags);
  });

  it('has units that systemd takes', async function () {
    if (!installed('systemd-analyze')) this.skip();
    const units = globSync('usr/lib/systemd/system/*', { cwd: root });
    assert.ok(units.length >= 2);
    // Beside the units of this machine; programs are where the package has been unpacked.
    const copies = join(scratch.path, 'units');
    await mkdir(copies);
    for (const unit of units) {
      const text = await readFile(join(root, unit), 'utf8');
      await writeFile(
        join(copies, basename(unit)),
        text.replaceAll(/(?<==\+?)\/usr\/bin\/xnbd/g, `${root}/usr/bin/xnbd`),
      );
    }
    const names = units.map((path) => join(copies, basename(path).replace('@.', '@vm1-vda.')));
    const faults = await said('systemd-analyze', ['verify', '--man=no', ...names]);
    const ours = faults.split('\n').filter((line) => line.includes('xnbd'));
    assert.deepEqual(ours, []);
  });

  it('has an AppArmor profile that the parser takes', async function () {
    const profiles = globSync('etc/apparmor.d/*', { cwd: root });
    if (profiles.length === 0 || !installed('apparmor_parser')) this.skip();
    for (const profile of profiles) {
      const { stderr } = await run('apparmor_parser', ['-Q', '-K', join(root, profile)]);
      // What this kernel lacks is no fault of the profile.
      const faults = stderr
        .split('\n')
        .filter((line) => line !== '' && !line.startsWith('Cache read/write disabled'));
      assert.deepEqual(faults, [], profile);
    }
  });

  it('has a module for SELinux that its compiler takes, and that says there what it is to say', async function () {
    if (!installed('secilc', 'checkpolicy')) this.skip();
    const [policy, contexts, rules] = ['policy', 'contexts', 'rules'].map((name) => join(scratch.path, name));
    const module = join(root, 'usr/share/selinux/packages/xnbd/xnbd.cil');
    const names = join(import.meta.dirname, 'fedora-names.cil');
    assert.equal(await said('secilc', ['-M', 'true', '-o', policy!, '-f', contexts!, names, module]), '');
    await run('checkpolicy', ['-b', '-M', '-C', '-o', rules!, policy!]);
    const text = await readFile(rules!, 'utf8');
    for (const rule of [
      '(allow virt_domain unconfined_service_t (unix_stream_socket (connectto)))',
      '(allow virt_domain xnbd_run_t (sock_file (getattr write append open)))',
      '(typetransition virtqemud_t xnbd_hook_exec_t process virt_hook_unconfined_t)',
    ])
      assert.ok(text.includes(rule), rule);
    assert.match(
      await readFile(contexts!, 'utf8'),
      /^\/run\/xnbd\(\/\.\*\)\?\tsystem_u:object_r:xnbd_run_t:s0$/m,
    );
  });

  it('has manual pages that man takes without a warning, for every program', async function () {
    if (!installed('man')) this.skip();
    const pages = globSync(`${root}/usr/share/man/man*/*.gz`);
    assert.equal(pages.length, 6);
    for (const page of pages) {
      const { stdout, stderr } = await run('man', ['--warnings', '--encoding=UTF-8', '--local-file', page], {
        env: { ...process.env, MANWIDTH: '80', LC_ALL: 'C.UTF-8' },
      });
      assert.equal(stderr, '', page);
      assert.doesNotMatch(stdout, /@[a-zA-Z-]+@|\\f|`/, page);
      assert.match(stdout, /NAME[\s\S]+SEE ALSO/);
    }
    const { stdout } = await run('zcat', [join(root, 'usr/share/man/man8/xnbdctl.8.gz')]);
    for (const word of ['xnbdctl adopt', 'xnbdctl pki check', '\\-\\-in\\-use'])
      assert.ok(stdout.includes(word), word);
  });

  it('has a page of xnbd.conf that knows every section, key and default of the file', async function () {
    if (!installed('man')) this.skip();
    const { stdout: page } = await run(
      'man',
      ['--local-file', join(root, 'usr/share/man/man5/xnbd.conf.5.gz')],
      {
        env: { ...process.env, MANWIDTH: '200', LC_ALL: 'C.UTF-8' },
      },
    );
    const told = page.replaceAll(/\s+/g, ' ');
    // Their keys are names of peers, or their values only examples.
    const ownKeys = ['peers', 'peer-rate', 'peer-rate-schedule'];
    const examples = ['tls', 'advertise'];
    let section = '';
    for (const line of (await readFile(join(top, 'etc/xnbd.conf'), 'utf8')).split('\n')) {
      section = /^\[(.+)\]$/.exec(line)?.[1] ?? section;
      if (line.startsWith('[')) assert.match(page, new RegExp(`^\\[${section}\\]$`, 'm'));
      const [, key, value] = /^#([a-z-]+) = (.*)$/.exec(line) ?? [];
      if (key === undefined || ownKeys.includes(section)) continue;
      const isExample = examples.includes(section) || examples.includes(key);
      assert.ok(told.includes(isExample ? key : `${key} = ${value}`), `[${section}] ${line}`);
    }
  });

  it('names the licence of all that is bundled', async () => {
    const text = await readFile(join(root, 'usr/share/doc/xnbd-libvirt/copyright'), 'utf8');
    for (const name of ['commander', 'winston', 'dbus-next', 'valibot', 'node', 'koffi', 'node-unix-socket'])
      assert.match(text, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\([^)]+\\)\\n\\n.`, 'm'));
    assert.match(text, /^node 24\.[\s\S]*V8[\s\S]*OpenSSL/m);
  });

  describe('completion', () => {
    const completion = (shell: string): string =>
      join(
        root,
        shell === 'bash'
          ? 'usr/share/bash-completion/completions/xnbdctl'
          : 'usr/share/zsh/vendor-completions/_xnbdctl',
      );

    async function inBash(...words: string[]): Promise<string[]> {
      const script = `. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xnbdctl; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const { stdout } = await run('bash', ['-euc', script, 'bash', completion('bash'), 'xnbdctl', ...words]);
      return stdout.trim().split('\n');
    }

    it('of bash knows commands, options, settings and disks', async () => {
      const bin = join(scratch.path, 'bin');
      await mkdir(bin);
      await writeFile(
        join(bin, 'xnbdctl'),
        '#!/bin/sh\nprintf "NAME STATE\\nvm1-vda serving\\nvm2-vda serving\\n"\n',
        { mode: 0o755 },
      );
      process.env['PATH'] = `${bin}:${process.env['PATH']}`;
      assert.deepEqual(await inBash('ado'), ['adopt']);
      assert.deepEqual(await inBash('--config', 'x', 'pki', 'ch'), ['check']);
      assert.deepEqual(await inBash('list', '--'), ['--json', '--in-use', '--help']);
      assert.deepEqual(await inBash('set', 'vm1-vda', 'copy'), ['copy-rate']);
      assert.deepEqual(await inBash('status', 'vm2'), ['vm2-vda']);
      assert.deepEqual(await inBash('watch', 'vm1-vda', 'vm2'), ['vm2-vda']);
      assert.deepEqual(await inBash('status', 'vm1-vda', 'vm2'), ['']);
    });

    it('of zsh is taken by zsh', async function () {
      if (!installed('zsh')) this.skip();
      const script = `compadd() { print -l -- "\${@[2,-1]}"; }; words=(xnbdctl set vm1-vda ''); CURRENT=4; . "$1"`;
      const { stdout, stderr } = await run('zsh', ['-fc', script, 'zsh', completion('zsh')]);
      assert.equal(stderr, '');
      assert.match(stdout, /^copy-rate$/m);
    });
  });
});
