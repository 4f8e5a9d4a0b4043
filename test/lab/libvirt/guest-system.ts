/*
 * What the lab's guest boots: Debian's cloud kernel, and an initramfs of the program in guest/ and the virtio modules. Both are made once
 * and kept in the git-ignored .cache/guest/ of the repository.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { run } from '../processes.ts';
import { cpioArchive } from './cpio.ts';

const CACHE = join(import.meta.dirname, '../../../.cache/guest');
const PROGRAM = join(import.meta.dirname, 'guest');

/** In the order of loading. Some are built into some kernels. */
const MODULES = [
  'virtio/virtio_ring.ko',
  'virtio/virtio.ko',
  'virtio/virtio_pci_legacy_dev.ko',
  'virtio/virtio_pci_modern_dev.ko',
  'virtio/virtio_pci.ko',
  'block/virtio_blk.ko',
];

const cached = (module: string): string => join(CACHE, 'modules', basename(module));

export type GuestSystem = { kernel: string; initramfs: string };

/**
 * Kernel and initramfs, made when the cache lacks them.
 * @throws when there is no network to fetch the kernel package by, or no compiler
 */
export async function guestSystem(): Promise<GuestSystem> {
  await mkdir(CACHE, { recursive: true });
  const kernel = join(CACHE, 'vmlinuz');
  if (!existsSync(kernel)) await unpackKernel();
  const recipe = createHash('sha256').update(MODULES.join());
  for (const name of (await readdir(PROGRAM)).sort()) recipe.update(await readFile(join(PROGRAM, name)));
  const initramfs = join(CACHE, `initramfs-${recipe.digest('hex').slice(0, 12)}`);
  if (!existsSync(initramfs)) await buildInitramfs(initramfs);
  return { kernel, initramfs };
}

/** Leaves `vmlinuz` and the modules in the cache, the kernel last: where it is, the rest is too. */
async function unpackKernel(): Promise<void> {
  const work = await mkdtemp(join(CACHE, 'unpack-'));
  try {
    const name = await kernelPackage();
    await run(['apt-get', 'download', name], { cwd: work, timeoutMs: 300_000 });
    const archive = (await readdir(work)).find((file) => file.endsWith('.deb'));
    if (archive === undefined) throw new Error(`apt-get download ${name} left no package`);
    await run(['dpkg-deb', '-x', archive, 'tree'], { cwd: work });
    const tree = join(work, 'tree');
    const modules = join(tree, existsSync(join(tree, 'usr/lib/modules')) ? 'usr' : '', 'lib/modules');
    const version = (await readdir(modules))[0]!;
    const builtIn = await readFile(join(modules, version, 'modules.builtin'), 'utf8');
    await mkdir(join(CACHE, 'modules'), { recursive: true });
    for (const module of MODULES.filter((name) => !builtIn.includes(`/${name}\n`))) {
      const path = join(modules, version, 'kernel/drivers', module);
      // Debian 13 packs them.
      if (!existsSync(path)) await run(['xz', '--decompress', `${path}.xz`]);
      await moveInto(path, cached(module));
    }
    await moveInto(join(tree, 'boot', `vmlinuz-${version}`), join(CACHE, 'vmlinuz'));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** The package that Debian's newest cloud kernel is in. Machines without package lists get them. */
async function kernelPackage(): Promise<string> {
  for (const prepare of [['true'], ['apt-get', '-q', 'update']]) {
    await run(prepare, { timeoutMs: 300_000 });
    const { stdout } = await run(['apt-cache', 'depends', '--important', 'linux-image-cloud-amd64'], {
      check: false,
    });
    const name = /Depends: (linux-image-\S+)/.exec(stdout)?.[1];
    if (name !== undefined) return name;
  }
  throw new Error('apt knows no linux-image-cloud-amd64');
}

async function buildInitramfs(path: string): Promise<void> {
  const program = join(CACHE, `init-${randomUUID()}`);
  try {
    const sources = (await readdir(PROGRAM)).filter((name) => name.endsWith('.c'));
    await run(['gcc', '-static', '-O2', '-s', '-o', program, ...sources], { cwd: PROGRAM });
    const modules = MODULES.filter((module) => existsSync(cached(module))).map(async (module, index) => ({
      path: `modules/${index}.ko`,
      mode: 0o644,
      content: await readFile(cached(module)),
    }));
    const archive = cpioArchive([
      { path: 'dev', mode: 0o755 },
      { path: 'proc', mode: 0o755 },
      { path: 'modules', mode: 0o755 },
      ...(await Promise.all(modules)),
      { path: 'init', mode: 0o755, content: await readFile(program) },
    ]);
    const draft = `${path}.${randomUUID()}`;
    await writeFile(draft, archive);
    await rename(draft, path);
  } finally {
    await rm(program, { force: true });
  }
}

/** Several labs may fill the cache at once: a file appears whole or not at all. */
async function moveInto(from: string, to: string): Promise<void> {
  const draft = join(dirname(to), randomUUID());
  await copyFile(from, draft);
  await rename(draft, to);
}
