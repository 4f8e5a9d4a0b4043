/**
 * An RPM package, by rpmbuild, which runs on Debian, too: so the spec uses no macro of a distribution. The same
 * files and the same time make the same bytes.
 */
import { execFile } from 'node:child_process';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type HostFile, place } from './host-file.ts';
import { top } from './host-files.ts';
import type { Description } from './package.ts';
import { LIB } from './programs.ts';

const run = promisify(execFile);

/** What it needs: Node's own libraries, and what programs talk to. */
const requires = [
  'glibc >= 2.28',
  'libgcc_s.so.1()(64bit)',
  'libstdc++.so.6(GLIBCXX_3.4.21)(64bit)',
  'systemd',
  'dbus',
  'libvirt-daemon >= 9',
  'libvirt-dbus',
];

/** rpmbuild's own ideas of time, host and what is to be done with files; it has none. */
const macros = (description: Description, work: string): Readonly<Record<string, string>> => ({
  _topdir: join(work, 'rpm'),
  _rpmdir: join(work, 'rpm/RPMS'),
  _build_name_fmt: fileName(description),
  _buildhost: 'xnbd',
  use_source_date_epoch_as_buildtime: '1',
  clamp_mtime_to_source_date_epoch: '1',
  _binary_payload: description.fast ? 'w1.zstdio' : 'w19.zstdio',
  _binary_filedigest_algorithm: '8',
  _build_id_links: 'none',
  __os_install_post: '%{nil}',
  debug_package: '%{nil}',
  _unpackaged_files_terminate_build: '1',
});

const fileName = ({ name, version, architecture }: Description): string =>
  `${name}-${version}-1.${architecture.rpm}.rpm`;

/**
 * As others have it than Debian: a place for zsh, and configuration that is only what an administrator edits
 * (Debian takes every file in /etc for that).
 */
function asElsewhere({ to, configuration = false, ...file }: HostFile): HostFile {
  return {
    ...file,
    to: to.replace('/zsh/vendor-completions/', '/zsh/site-functions/'),
    configuration: configuration && !to.startsWith('/etc/libvirt/hooks/'),
  };
}

/** @param work a directory to make it in. @returns the file's name in `out`. */
export async function buildRpm(
  contents: readonly HostFile[],
  description: Description,
  work: string,
  out: string,
): Promise<string> {
  const files = contents.filter(({ to }) => !to.includes('/lintian/')).map(asElsewhere);
  const root = join(work, 'rpm/root');
  await place(files, root);
  const spec = join(work, 'rpm/package.spec');
  await writeFile(spec, await specText(files, description));
  await mkdir(join(work, 'rpm/RPMS'));
  const defined = Object.entries(macros(description, work));
  await run(
    'rpmbuild',
    [
      ...['-bb', '--quiet', '--noclean', '--target', `${description.architecture.rpm}-linux`],
      ...['--buildroot', join(work, 'rpm/BUILDROOT')],
      ...['--define', `staged ${root}`],
      ...defined.flatMap(([name, value]) => ['--define', `${name} ${value}`]),
      spec,
    ],
    { env: { ...process.env, SOURCE_DATE_EPOCH: String(description.epoch) } },
  );
  const name = fileName(description);
  await rename(join(work, 'rpm/RPMS', name), join(out, name));
  return name;
}

async function specText(files: readonly HostFile[], description: Description): Promise<string> {
  const { name, version, summary, maintainer, homepage, epoch } = description;
  const script = (which: string): Promise<string> => readFile(join(top, 'packaging/rpm', which), 'utf8');
  const [weekday, day, month, year] = new Date(epoch * 1000).toUTCString().split(/,? /);
  return `Name: ${name}
Version: ${version}
Release: 1
Summary: ${summary.replace(/^./, (first) => first.toUpperCase())}
License: Apache-2.0 AND MIT AND ISC AND BSD-2-Clause AND BSD-3-Clause
URL: ${homepage}
Group: System/Management
Packager: ${maintainer}
AutoReqProv: no
${requires.map((each) => `Requires: ${each}`).join('\n')}
Requires(post): systemd
Recommends: openssl

%description
${description.description.join('\n')}

%install
cp -a %{staged}/. %{buildroot}

%post
${await script('post')}
%preun
${await script('preun')}
%postun
${await script('postun')}
%files
%defattr(-,root,root,-)
${[...ownDirectories(files).map((path) => `%dir ${path}`), ...files.map(fileLine)].join('\n')}

%changelog
* ${weekday} ${month} ${day} ${year} ${maintainer} - ${version}-1
- What changed is in NEWS.md.gz beside the licences.
`;
}

function fileLine({ to, configuration, mode }: HostFile): string {
  const kind = configuration ? '%config(noreplace) ' : to.startsWith('/usr/share/doc/') ? '%doc ' : '';
  return `%attr(0${mode.toString(8)},root,root) ${kind}${to}`;
}

/** Directories that are there because of this package alone. */
function ownDirectories(files: readonly HostFile[]): string[] {
  const own = new Set<string>();
  for (const { to } of files)
    for (let path = dirname(to); path !== '/'; path = dirname(path))
      if (path.startsWith(LIB) || path.endsWith('/xnbd') || path.endsWith('/xnbd-libvirt')) own.add(path);
  return [...own].sort();
}
