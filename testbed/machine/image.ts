/**
 * What a machine boots from: a stock Debian of one release, made once by mmdebstrap and kept.
 *
 * A small initrd of busybox and the modules of the disk goes before it, because Debian's own takes a minute to unpack under
 * emulation. From there on everything is Debian's: its kernel, systemd, libvirt, QEMU and AppArmor.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type CpioEntry, cpioArchive } from '../../test/lab/libvirt/cpio.ts';
import { run } from '../../test/lab/processes.ts';

export type Release = '12' | '13';

const suites: Readonly<Record<Release, string>> = { '12': 'bookworm', '13': 'trixie' };

const PACKAGES = [
  ...['systemd', 'systemd-sysv', 'udev', 'dbus', 'kmod', 'procps', 'less', 'linux-image-cloud-amd64'],
  ...[
    'busybox-static',
    'iproute2',
    'iputils-ping',
    'netbase',
    'ca-certificates',
    'openssl',
    'openssh-server',
  ],
  ...['openssh-sftp-server', 'apparmor', 'libvirt-daemon-system', 'libvirt-daemon-driver-qemu'],
  ...['libvirt-clients', 'libvirt-dbus', 'qemu-system-x86', 'qemu-utils', 'netcat-openbsd', 'strace'],
];
const SIZE_BYTES = 6 * 2 ** 30;
const CONFIGURE = join(import.meta.dirname, 'configure-root.sh');

/** What the initrd loads; what they need goes before them, and some are built into some kernels. */
const MODULES = ['virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic'];

export interface MachineImage {
  disk: string;
  kernel: string;
  initrd: string;
}

/**
 * The image of a release, made when `dir` lacks it: three minutes, 1.5 GB. As root, because files keep their owners.
 * @param dir where images are kept.
 */
export async function machineImage(release: Release, dir: string): Promise<MachineImage> {
  const home = join(dir, `debian-${release}`);
  await mkdir(home, { recursive: true });
  const key = await sshKey(dir);
  const root = join(home, `root-${hash(PACKAGES.join())}`);
  if (!existsSync(root)) await debootstrap(suites[release], root);
  const recipe = hash(
    basename(root),
    await readFile(CONFIGURE, 'utf8'),
    await readFile(`${key}.pub`, 'utf8'),
  );
  const image = (suffix: string) => join(home, `${recipe}.${suffix}`);
  const made = { disk: image('ext4'), kernel: image('vmlinuz'), initrd: image('initrd') };
  if (!existsSync(made.disk)) {
    for (const old of await readdir(home))
      if (/\.(ext4|vmlinuz|initrd|draft)$/.test(old)) await rm(join(home, old), { recursive: true });
    await run(['sh', CONFIGURE, root, `${key}.pub`]);
    const version = (await readdir(join(root, 'lib/modules')))[0]!;
    await copyFile(join(root, `boot/vmlinuz-${version}`), made.kernel);
    await writeFile(made.initrd, await initrd(root, version));
    await fileSystem(root, made.disk);
  }
  return made;
}

/** The private key by which root of a machine is reached. */
export async function sshKey(dir: string): Promise<string> {
  const key = join(dir, 'id');
  if (!existsSync(key))
    await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'testbed', '-f', key]);
  return key;
}

async function debootstrap(suite: string, root: string): Promise<void> {
  const draft = `${root}.draft`;
  await rm(draft, { recursive: true, force: true });
  const without = ['doc', 'man', 'locale'].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
  await run(
    [
      ...['mmdebstrap', '--quiet', '--variant=minbase', '--mode=root', `--include=${PACKAGES.join()}`],
      ...['--aptopt=APT::Install-Recommends "false"', ...without, suite, draft],
    ],
    { timeoutMs: 900_000, env: process.env },
  );
  await rename(draft, root);
}

async function fileSystem(root: string, image: string): Promise<void> {
  const draft = `${image}.draft`;
  await rm(draft, { force: true });
  await writeFile(draft, '');
  await truncate(draft, SIZE_BYTES);
  await run(['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=0', '-d', root, draft], { timeoutMs: 300_000 });
  await rename(draft, image);
}

async function initrd(root: string, version: string): Promise<Buffer> {
  const { stdout } = await run([
    ...[
      'chroot',
      root,
      'sh',
      '-c',
      'v=$1; shift; for m; do modprobe -S "$v" --show-depends "$m"; done',
      'sh',
    ],
    ...[version, ...MODULES],
  ]);
  const paths = [...new Set([...stdout.matchAll(/^insmod (\S+)/gm)].map(([, path]) => path!))];
  const modules = await Promise.all(paths.map((path) => plainModule(join(root, path))));
  const init = [
    '#!/bin/busybox sh',
    'for fs in proc sysfs devtmpfs; do /bin/busybox mount -t $fs $fs /$fs; done',
    ...modules.map(({ path }) => `/bin/busybox insmod /${path}`),
    'until [ -b /devtmpfs/vda ]; do /bin/busybox sleep 0.1; done',
    '/bin/busybox mount -t ext4 -o rw,noatime /devtmpfs/vda /root',
    'for fs in proc sys dev; do',
    '  case $fs in sys) from=sysfs ;; dev) from=devtmpfs ;; *) from=proc ;; esac',
    '  /bin/busybox mount --move /$from /root/$fs',
    'done',
    'exec /bin/busybox switch_root /root /lib/systemd/systemd',
    '',
  ].join('\n');
  return cpioArchive([
    ...['bin', 'modules', 'proc', 'sysfs', 'devtmpfs', 'dev', 'root'].map((path) => ({ path, mode: 0o755 })),
    { path: 'bin/busybox', mode: 0o755, content: await readFile(join(root, 'bin/busybox')) },
    ...modules,
    { path: 'init', mode: 0o755, content: Buffer.from(init) },
  ]);
}

/** Debian 13 packs them, and busybox does not unpack. */
async function plainModule(path: string): Promise<CpioEntry> {
  const name = basename(path).replace(/\.xz$/, '');
  if (path.endsWith('.xz')) {
    const unpacked = join(path, '..', `${name}.plain`);
    await run(['sh', '-c', 'xz --decompress --stdout "$1" >"$2"', 'sh', path, unpacked]);
    const content = await readFile(unpacked);
    await rm(unpacked);
    return { path: `modules/${name}`, mode: 0o644, content };
  }
  return { path: `modules/${name}`, mode: 0o644, content: await readFile(path) };
}

function hash(...texts: string[]): string {
  return createHash('sha256').update(texts.join('\0')).digest('hex').slice(0, 12);
}
