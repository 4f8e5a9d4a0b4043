/**
 * A root in which a package can be installed and removed for real, and of which nothing is left: this machine's
 * own file system under an overlay (`machine`), or a directory with a shell and C libraries and nothing else
 * (`bare`). No service manager runs in it.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { top } from './built-packages.ts';

const run = promisify(execFile);

export interface Ran {
  code: number;
  /** Standard output and error. */
  output: string;
}

export interface ScratchRoot {
  /** Runs a shell command in the root. */
  sh(command: string): Promise<Ran>;
  /** Likewise, of the machine, in the same mounts: `$ROOT` is the root. */
  outside(command: string): Promise<Ran>;
  /** Likewise. @throws Error with its output where it fails */
  ok(command: string): Promise<string>;
  remove(): Promise<void>;
}

/** Mounts and stays: its namespaces are the root's. `$1` is a directory of its own, `$2` what the root begins as. */
const anchor = `
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
if [ "$2" = machine ]; then
  mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
  mount -t tmpfs -o mode=755 tmpfs "$1/root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$1/root/tmp"
else
  cp -a "$2/." "$1/root"
fi
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
mkdir -p "$1/root/packages"
mount --bind "$3" "$1/root/packages"
echo ready
exec sleep 100000`;

/** @param packages a directory, which is /packages in the root */
export async function scratchRoot(kind: 'machine' | 'bare', packages: string): Promise<ScratchRoot> {
  const directory = await mkdtemp(join(tmpdir(), 'xr-'));
  const begins = kind === 'machine' ? kind : await bareRoot(join(directory, 'bare'));
  const mounts = join(directory, 'mounts');
  await mkdir(mounts);
  const held = spawn(
    'unshare',
    [
      '--mount',
      '--pid',
      '--fork',
      '--kill-child',
      '--',
      'sh',
      '-euc',
      anchor,
      'sh',
      mounts,
      begins,
      packages,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let said = '';
  held.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ready = await Promise.race([once(held.stdout, 'data'), once(held, 'exit')]);
  if (!String(ready[0]).startsWith('ready')) throw new Error(`no root here: ${said}`);
  const { stdout } = await run('pgrep', ['--parent', String(held.pid)]);
  const enter = ['--target', stdout.trim(), '--mount', '--pid', '--'];
  const root = join(mounts, 'root');

  async function inside(args: readonly string[]): Promise<Ran> {
    return await new Promise((resolve) => {
      const child = spawn('nsenter', [...enter, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
      let output = '';
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', (text: string) => (output += text));
      // Not 'close': what the command leaves running has its output open.
      child.on('exit', (code) => setTimeout(() => resolve({ code: code ?? 1, output }), 50));
    });
  }
  const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8';
  const sh = (command: string): Promise<Ran> =>
    inside(['env', '-i', ...path.split(' '), 'chroot', root, '/bin/sh', '-c', command]);
  return {
    sh,
    outside: (command) => inside(['env', `ROOT=${root}`, '/bin/sh', '-c', command]),
    ok: async (command) => {
      const { code, output } = await sh(command);
      if (code !== 0) throw new Error(`${command}: exit code ${code}\n${output}`);
      return output;
    },
    remove: async () => {
      held.kill('SIGKILL');
      await once(held, 'exit');
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** busybox, and the libraries that Node needs. @returns the directory, which it makes. */
async function bareRoot(directory: string): Promise<string> {
  for (const each of ['bin', 'dev', 'proc', 'tmp', 'run', 'etc', 'usr/bin'])
    await mkdir(join(directory, each), { recursive: true });
  await run('cp', ['/bin/busybox', join(directory, 'bin/busybox')]);
  const { stdout: applets } = await run('/bin/busybox', ['--list']);
  for (const applet of applets.trim().split('\n'))
    if (applet !== 'busybox') await symlink('busybox', join(directory, 'bin', applet));
  const { stdout: libraries } = await run('ldd', [join(top, 'node_modules/node/bin/node')]);
  for (const [path] of libraries.matchAll(/\/\S+/g)) {
    await mkdir(join(directory, dirname(path)), { recursive: true });
    await run('cp', ['--dereference', path, join(directory, path)]);
  }
  await writeFile(join(directory, 'etc/passwd'), 'root:x:0:0:root:/:/bin/sh\n');
  await writeFile(join(directory, 'etc/group'), 'root:x:0:\n');
  return directory;
}

/** Why no such root can be made here, or undefined. */
export function noRootHere(): string | undefined {
  return process.getuid?.() === 0 ? undefined : 'it takes root: it mounts, and makes namespaces';
}
