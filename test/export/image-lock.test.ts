/**
 * One image has one writer: another export, and QEMU, are kept out of ours, and we of theirs; whoever is
 * refused is told who has it.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { truncate, writeFile } from 'node:fs/promises';
import { isInstalled } from '../lab/installed.ts';
import { useExports } from '../lab/nbd/use-exports.ts';

const SIZE = 1024 * 1024;

describe('an image that is in use', function () {
  this.timeout(60_000);
  const { path, start } = useExports();
  const others: ChildProcess[] = [];
  let loop: string | null = null;

  beforeEach(async () => {
    await writeFile(path('a.img'), '');
    await truncate(path('a.img'), SIZE);
  });
  afterEach(async () => {
    for (const other of others.splice(0)) {
      other.kill('SIGKILL');
      await once(other, 'exit');
    }
    if (loop !== null) execFileSync('losetup', ['-d', loop]);
    loop = null;
  });

  /** QEMU's own block layer, in a process that has the image open until it is ended. */
  async function qemuHolds(image: string, ...options: string[]): Promise<number> {
    const other = spawn('qemu-io', ['-f', 'raw', ...options, image], { stdio: ['pipe', 'pipe', 'inherit'] });
    others.push(other);
    const opened = once(other.stdout, 'data');
    // An answer tells that it has been opened.
    other.stdin.write('length\n');
    await opened;
    return other.pid!;
  }
  const qemuTries = (...args: string[]) => {
    const { status, stderr } = spawnSync('qemu-io', ['-f', 'raw', ...args, '-c', 'length'], {
      encoding: 'utf8',
    });
    return { status, stderr };
  };
  function needQemu(context: Mocha.Context): void {
    if (isInstalled('qemu-io')) return;
    console.log('skipped: qemu-io is not installed');
    context.skip();
  }
  function needLoop(context: Mocha.Context): string {
    try {
      loop = execFileSync('losetup', ['-f', '--show', path('a.img')], {
        encoding: 'utf8',
        stdio: 'pipe',
      }).trim();
    } catch (error) {
      console.log(`skipped: no loop device: ${(error as Error).message.split('\n')[0]}`);
      context.skip();
    }
    return `../../..${loop}`;
  }

  it('by an export is refused to a second one, which names the first; and had when that is killed', async () => {
    const first = await start('target', 'a');
    await assert.rejects(start('target', 'b', [], 'a.img'), (error: Error) => {
      assert.match(
        error.message,
        new RegExp(
          `cannot open image .*a\\.img: export 'disk' \\(process ${first.child.pid}\\) serves it: stop that first$`,
        ),
      );
      return true;
    });
    await first.end('SIGKILL');
    await start('target', 'b', [], 'a.img');
  });

  it('may be read by several exports that only read, and by none beside one that writes', async () => {
    await start('target', 'a', ['--read-only']);
    await start('target', 'b', ['--read-only', '--state', path('b.state')], 'a.img');
    await assert.rejects(
      start('target', 'c', ['--state', path('c.state')], 'a.img'),
      /export 'disk' .* serves it/,
    );
  });

  it('by an export is refused to QEMU', async function () {
    needQemu(this);
    await start('target', 'a');
    const { status, stderr } = qemuTries(path('a.img'));
    assert.notEqual(status, 0);
    assert.match(stderr, /Failed to get "write" lock/);
    const copy = (...args: string[]) =>
      spawnSync('qemu-img', ['convert', ...args, '-f', 'raw', path('a.img'), path('copy')], {
        encoding: 'utf8',
      });
    assert.match(copy().stderr, /Failed to get shared "write" lock/);
    assert.equal(copy('-U').status, 0, 'who takes it as it is may look');
  });

  it('by QEMU is refused to an export, which names the process', async function () {
    needQemu(this);
    const pid = await qemuHolds(path('a.img'));
    await assert.rejects(
      start('target', 'a'),
      new RegExp(`cannot open image .*a\\.img: it is in use by qemu-io \\(process ${pid}\\): end that first`),
    );
    await assert.rejects(start('target', 'a', ['--read-only']), /in use by qemu-io/);
  });

  it('and is a block device: the same, both ways, and a mount is refused as well', async function () {
    needQemu(this);
    const device = needLoop(this);
    const first = await start('target', 'a', ['--state', path('a.state')], device);
    const { status, stderr } = qemuTries(loop!);
    assert.notEqual(status, 0);
    assert.match(stderr, /Failed to get "write" lock|busy/);
    assert.match(spawnSync('mkfs.ext4', ['-q', loop!], { encoding: 'utf8' }).stderr, /in use/);
    await assert.rejects(
      start('target', 'b', ['--state', path('b.state')], device),
      /export 'disk' .* serves it/,
    );
    await first.end();
    const pid = await qemuHolds(loop!);
    await assert.rejects(
      start('target', 'a', ['--state', path('a.state')], device),
      new RegExp(`in use by qemu-io \\(process ${pid}\\)`),
    );
  });
});
