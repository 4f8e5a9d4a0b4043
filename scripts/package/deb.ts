/** A Debian package, by dpkg-deb. The same files and the same time make the same bytes. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type HostFile, place } from './host-file.ts';
import { top } from './host-files.ts';
import type { Description } from './package.ts';

const run = promisify(execFile);

const scripts = ['postinst', 'prerm', 'postrm'];

/** What it needs: Node's own libraries, and what programs talk to. */
const depends = [
  'libc6 (>= 2.28)',
  'libgcc-s1',
  'libstdc++6 (>= 9)',
  'init-system-helpers (>= 1.54)',
  'default-dbus-system-bus | dbus-system-bus',
  'libvirt-daemon-system (>= 9)',
  'libvirt-dbus',
];

/** @param work a directory to make it in. @returns the file's name in `out`. */
export async function buildDeb(
  files: readonly HostFile[],
  package_: Description,
  work: string,
  out: string,
): Promise<string> {
  const root = join(work, 'deb');
  await place(files, root);
  const control = join(root, 'DEBIAN');
  await mkdir(control, { mode: 0o755 });
  await writeFile(join(control, 'control'), await controlText(files, package_, root));
  const configuration = files.filter((file) => file.configuration).map(({ to }) => to);
  await writeFile(join(control, 'conffiles'), configuration.map((path) => `${path}\n`).join(''));
  await writeFile(join(control, 'md5sums'), await sums(files, root));
  for (const name of scripts) {
    const text = await readFile(join(top, 'packaging/deb', name));
    await writeFile(join(control, name), text, { mode: 0o755 });
  }
  await setTimes(root, package_.epoch);
  const name = `${package_.name}_${package_.version}_${package_.architecture.deb}.deb`;
  await run(
    'dpkg-deb',
    [
      ...['--root-owner-group', '--threads-max=1', `-Z${package_.fast ? 'gzip' : 'xz'}`],
      ...[`-z${package_.fast ? 1 : 6}`, '--build', root, join(out, name)],
    ],
    { env: { ...process.env, SOURCE_DATE_EPOCH: String(package_.epoch) } },
  );
  return name;
}

async function controlText(files: readonly HostFile[], package_: Description, root: string): Promise<string> {
  const { name, version, architecture, summary, description, maintainer, homepage } = package_;
  let kib = 0;
  const directories = new Set<string>();
  for (const { to } of files) {
    kib += Math.ceil((await stat(join(root, to))).size / 1024);
    for (let path = dirname(to); path !== '/'; path = dirname(path)) directories.add(path);
  }
  return `${[
    `Package: ${name}`,
    `Version: ${version}`,
    `Architecture: ${architecture.deb}`,
    `Maintainer: ${maintainer}`,
    `Installed-Size: ${kib + directories.size}`,
    `Depends: ${depends.join(', ')}`,
    'Recommends: openssl',
    'Suggests: nbd-client',
    'Section: admin',
    'Priority: optional',
    `Homepage: ${homepage}`,
    `Description: ${summary}`,
    ...description.map((line) => (line === '' ? ' .' : ` ${line}`)),
  ].join('\n')}\n`;
}

/** Of all but configuration, as dpkg wants it. */
async function sums(files: readonly HostFile[], root: string): Promise<string> {
  const lines: string[] = [];
  for (const { to } of files.filter((file) => !file.configuration)) {
    const sum = createHash('md5').update(await readFile(join(root, to)));
    lines.push(`${sum.digest('hex')}  ${to.slice(1)}\n`);
  }
  return lines.join('');
}

/** dpkg-deb only brings times down that are later than the epoch. */
async function setTimes(root: string, epoch: number): Promise<void> {
  for (const entry of await readdir(root, { recursive: true })) await utimes(join(root, entry), epoch, epoch);
  await utimes(root, epoch, epoch);
}
