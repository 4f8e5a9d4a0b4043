/**
 * What libvirtd may run where AppArmor confines it: the rules of its profile, as the Debian packages have it,
 * against the paths that scripts/install.sh makes. AppArmor counts the path where a link leads to.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, realpath, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const top = join(import.meta.dirname, '../..');
const roots = {
  'this machine': '/',
  'Debian 13': join(process.env['XNBD_DEBIAN_ROOTS'] ?? join(top, '.cache'), 'debian-13'),
};

interface Rule {
  path: RegExp;
  modes: string;
}

/** The rules for files of a profile: `  /usr/bin/* PUx,`. */
function rulesOf(profile: string): Rule[] {
  return [...profile.matchAll(/^\s*(\/\S+)\s+([a-zA-Z]+),\s*$/gm)].map(([, pattern, modes]) => ({
    path: new RegExp(`^${asExpression(pattern!)}$`),
    modes: modes!,
  }));
}

/** AppArmor's globs: `*` stays within a directory, `**` does not, `{a,b}` is either. */
function asExpression(pattern: string): string {
  return pattern
    .replaceAll(/[.+^$()|[\]\\]/g, String.raw`\$&`)
    .replaceAll(/\*\*|\*/g, (stars) => (stars === '**' ? '.*' : '[^/]*'))
    .replaceAll(/\{([^}]*)\}/g, (_all, words: string) => `(?:${words.replaceAll(',', '|')})`);
}

for (const [whose, root] of Object.entries(roots)) {
  const profile = join(root, 'etc/apparmor.d/usr.sbin.libvirtd');

  describe(`a confined libvirtd of ${whose}`, function () {
    this.timeout(60_000);
    let rules: Rule[];
    let installed: string;

    const modesFor = (path: string): string[] =>
      rules.filter((rule) => rule.path.test(path)).map(({ modes }) => modes);
    /** As the host sees it that is installed to. */
    const seen = async (path: string): Promise<string> =>
      (await realpath(join(installed, path))).slice(installed.length);

    before(async function () {
      if (!existsSync(profile)) {
        console.log(`      skipped: there is no ${profile}`);
        this.skip();
      }
      rules = rulesOf(await readFile(profile, 'utf8'));
      installed = await realpath(await mkdtemp(join(tmpdir(), 'xa-')));
      await run('sh', [join(top, 'scripts/install.sh')], { env: { ...process.env, DESTDIR: installed } });
    });
    after(async () => {
      if (installed) await rm(installed, { recursive: true });
    });

    it('may run the hooks, within its own profile', async () => {
      for (const driver of ['qemu', 'libxl']) {
        const hook = await seen(`/etc/libvirt/hooks/${driver}.d/xnbd`);
        assert.ok(
          modesFor(hook).some((modes) => modes.includes('ix')),
          hook,
        );
      }
    });

    it('may run xnbd-hook, unconfined, by its real path', async () => {
      const hook = await seen('/usr/bin/xnbd-hook');
      assert.ok(
        modesFor(hook).some((modes) => modes.includes('PUx')),
        `${hook}: ${modesFor(hook).join()}`,
      );
    });

    it('may not run what a link in /usr/bin leads to elsewhere', async () => {
      await symlink('../lib/xnbd/bin/xnbd-hook', join(installed, 'usr/bin/a-link'));
      const hook = await seen('/usr/bin/a-link');
      assert.equal(hook, '/usr/lib/xnbd/bin/xnbd-hook');
      assert.deepEqual(
        modesFor(hook).filter((modes) => modes.includes('x')),
        [],
      );
    });
  });
}
