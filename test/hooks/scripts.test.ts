import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { domainXml } from '../lab/host/test-domain.ts';
import { exists } from '../lab/host/test-host.ts';

const uuid = '11111111-2222-4333-8444-555555555555';
const plainXml = `<domain type='kvm'>
  <name>other</name>
  <devices>
    <disk type='file'><source file='/var/lib/libvirt/images/other.img'/><target dev='vda'/></disk>
  </devices>
</domain>
`;

describe('hook scripts', () => {
  let dir: string;
  let run: string;

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'xs-'));
    run = join(dir, 'run');
    await mkdir(join(run, 'announced'), { recursive: true });
  });
  afterEach(() => rm(dir, { recursive: true }));

  /** A program in the place of xnbd-hook that keeps what it is given. */
  async function recorder(exit = 0): Promise<string> {
    const path = join(dir, 'recorder');
    await writeFile(
      path,
      `#!/bin/sh\nprintf '%s\\n' "$@" >'${dir}/argv'\ncat >'${dir}/stdin'\necho refused >&2\nexit ${exit}\n`,
    );
    await chmod(path, 0o755);
    return path;
  }

  interface Run {
    exit: number;
    stdout: string;
    stderr: string;
  }

  function call(
    driver: string,
    op: string,
    xml: string,
    env: Record<string, string>,
    guest = 'vm1',
  ): Promise<Run> {
    return new Promise((resolve) => {
      const child = execFile(
        join(import.meta.dirname, '../../hooks', driver),
        [guest, op, 'begin', '-'],
        { env: { PATH: process.env.PATH ?? '', ...env, XNBD_RUN: run } },
        (error, stdout, stderr) =>
          resolve({ exit: error === null ? 0 : Number(error.code ?? -1), stdout, stderr }),
      );
      child.stdin!.on('error', () => undefined);
      child.stdin!.end(xml);
    });
  }

  for (const driver of ['qemu', 'libxl']) {
    it(`${driver}: a domain without xNBD disks starts no program and sees nothing`, async () => {
      // Nothing can be found on this PATH: a program that the script tried to run would show as an error.
      for (const op of [
        'migrate',
        'prepare',
        'start',
        'started',
        'stopped',
        'release',
        'reconnect',
        'restore',
      ]) {
        const env = { PATH: '/nonexistent', XNBD_HOOK: '/nonexistent/xnbd-hook' };
        assert.deepEqual(await call(driver, op, plainXml, env), { exit: 0, stdout: '', stderr: '' }, op);
      }
      assert.deepEqual(await readdir(join(run, 'announced')), []);
    });

    it(`${driver}: the XML and the arguments reach xnbd-hook unchanged, however long`, async () => {
      const filler = `<!-- ${"\\n %s $(id) `id` 'quoted' ".repeat(40)} -->\n`.repeat(300);
      const xml = domainXml(run, { name: 'vm1', uuid, disks: ['vm1-vda'] }).replace(
        '<devices>\n',
        `<devices>\n${filler}`,
      );
      const env = { XNBD_HOOK: await recorder() };
      assert.equal(
        (await call(driver, 'prepare', `${xml}<!-- no newline at the end -->`, env, "it's $HOME")).exit,
        0,
      );
      assert.equal(await readFile(join(dir, 'stdin'), 'utf8'), `${xml}<!-- no newline at the end -->`);
      const argv = (await readFile(join(dir, 'argv'), 'utf8')).trimEnd().split('\n');
      assert.deepEqual(argv, [driver, "it's $HOME", 'prepare', 'begin', '-', '--socket', `${run}/hook.sock`]);
    });

    it(`${driver}: what begins may be refused, what ends and 'reconnect' never fail`, async () => {
      const xml = domainXml(run, { name: 'vm1', uuid, disks: ['vm1-vda'] });
      for (const XNBD_HOOK of [await recorder(1), '/nonexistent/xnbd-hook']) {
        for (const op of ['migrate', 'prepare']) {
          const refused = await call(driver, op, xml, { XNBD_HOOK });
          assert.notEqual(refused.exit, 0, op);
          assert.notEqual(refused.stderr, '', op);
        }
        for (const op of ['stopped', 'release', 'reconnect']) {
          assert.equal((await call(driver, op, xml, { XNBD_HOOK })).exit, 0, op);
        }
      }
    });

    it(`${driver}: a block device under /dev/xnbd is an xNBD disk`, async () => {
      const xml = `<domain><devices><disk type='block'><source dev='/dev/xnbd/vm1-vda'/></disk></devices></domain>`;
      await call(driver, 'prepare', xml, { XNBD_HOOK: await recorder() });
      assert.equal(await readFile(join(dir, 'stdin'), 'utf8'), xml);
    });
  }

  it('libxl: a migration without XML is announced by a file, whatever the name of the guest', async () => {
    const env = { PATH: '/nonexistent', XNBD_HOOK: '/nonexistent/xnbd-hook' };
    for (const guest of ['vm1', 'a b', '..', '-n', 'x/../../y']) {
      assert.deepEqual(
        await call('libxl', 'migrate', '', env, guest),
        { exit: 0, stdout: '', stderr: '' },
        guest,
      );
    }
    assert.deepEqual((await readdir(join(run, 'announced'))).sort(), [
      'libxl.-n',
      'libxl...',
      'libxl.a b',
      'libxl.vm1',
    ]);
    assert.deepEqual((await readdir(run)).sort(), ['announced']);
  });

  it('libxl: no other operation announces, and nothing is made where no daemon ever ran', async () => {
    const env = { PATH: '/nonexistent', XNBD_HOOK: '/nonexistent/xnbd-hook' };
    await call('libxl', 'prepare', '', env);
    await call('libxl', 'migrate', plainXml, env);
    await call('qemu', 'migrate', '', env);
    assert.deepEqual(await readdir(join(run, 'announced')), []);
    await rm(run, { recursive: true });
    assert.equal((await call('libxl', 'migrate', '', env)).exit, 0);
    assert.equal(await exists(run), false);
  });
});
