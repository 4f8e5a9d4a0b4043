/** What scripts/install.sh does: this clone on this host, or below DESTDIR. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { place } from './host-file.ts';
import { hostFiles, stateDirectories } from './host-files.ts';
import { architectures, nativeFiles } from './native.ts';
import { LIB, programFiles } from './programs.ts';

/** Where releases before 0.2 put what lies elsewhere now, and would hide it. */
const formerPlaces = [
  '/etc/systemd/system/xnbdd.service',
  '/etc/systemd/system/xnbd-gateway.service',
  '/etc/dbus-1/system.d/org.xnbd1.conf',
];

const root = process.env['DESTDIR'] ?? '';
const architecture = architectures.find(({ node }) => node === process.arch);
if (architecture === undefined) refuse(`there is no xNBD for ${process.arch}`);
if (existsSync(join(root, '/var/lib/dpkg/info/xnbd-libvirt.list')))
  refuse(
    'the package xnbd-libvirt is installed, and has the same files: remove it first, or build a newer one (npm run package)',
  );

const work = await mkdtemp(join(tmpdir(), 'xnbd-install-'));
try {
  const programs = (await programFiles(work)).files;
  const files = [...programs, ...(await nativeFiles(architecture, null)), ...hostFiles()];
  const kept = files.filter(({ to, configuration }) => configuration && existsSync(join(root, to)));
  // A hook is ours to change: nobody edits it.
  const mine = kept.filter(({ to }) => to.startsWith('/etc/xnbd/'));
  const placed = files.filter((file) => !mine.includes(file));
  await place(placed, root);
  for (const { to } of placed) if (!to.startsWith(LIB)) console.log(join(root, to));
  for (const { to } of mine) console.log(`${join(root, to)} is kept`);
  await removeFormer(new Set(placed.map(({ to }) => join(root, to))));
  console.log(join(root, LIB));
} finally {
  await rm(work, { recursive: true });
}
for (const directory of stateDirectories) {
  await mkdir(join(root, directory), { recursive: true });
  await chmod(join(root, directory), 0o711);
}
if (root === '') spawnSync(join(LIB, 'maintainer/after-install'), ['first'], { stdio: 'inherit' });
console.log(
  'Next: edit /etc/xnbd/xnbd.conf; systemctl daemon-reload; systemctl enable --now xnbdd xnbd-gateway.',
);

/** What an earlier installation left: a process that runs it keeps it open. */
async function removeFormer(placed: ReadonlySet<string>): Promise<void> {
  const lib = join(root, LIB);
  for (const entry of await readdir(lib, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isDirectory() && !placed.has(path)) await rm(path);
  }
  for (const path of formerPlaces) await rm(join(root, path), { force: true });
}

function refuse(why: string): never {
  console.error(`install: ${why}`);
  process.exit(1);
}
