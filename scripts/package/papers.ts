/** What a package says of itself below /usr/share/doc: licences of all that is in it, and what changed. */
import { existsSync, globSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { HostFile } from './host-file.ts';
import { top } from './host-files.ts';
import { besidePrograms } from './native.ts';
import type { Description } from './package.ts';

interface Licensed {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly text: string;
}

export function compressed(text: string): Buffer {
  return gzipSync(text, { level: 9 });
}

/** @param bundled directories of npm packages that are within the programs */
export async function paperFiles(package_: Description, bundled: readonly string[]): Promise<HostFile[]> {
  const doc = `/usr/share/doc/${package_.name}`;
  const file = (name: string, text: string | Buffer): HostFile => ({
    to: `${doc}/${name}`,
    mode: 0o644,
    from: { text },
  });
  const beside = besidePrograms.map((name) => `node_modules/${name}`);
  const packages = await Promise.all([...new Set([...bundled, ...beside])].sort().map(licensed));
  return [
    file('copyright', copyright(package_, packages)),
    file('changelog.gz', compressed(debianChangelog(package_))),
    file('NEWS.md.gz', compressed(await readFile(join(top, 'CHANGELOG.md'), 'utf8'))),
  ];
}

/** @throws Error for a package that does not say under which licence it is. */
async function licensed(path: string): Promise<Licensed> {
  const directory = join(top, path);
  const about = JSON.parse(await readFile(join(directory, 'package.json'), 'utf8')) as {
    name: string;
    version: string;
    license?: string;
    author?: string | { name: string };
  };
  // The package `node` has Node's own licence in the package that it fetches.
  const { name, version, license } = about;
  const places = name === 'node' ? globSync(join(directory, 'node_modules/node-linux-*')) : [directory];
  const files = places.flatMap((place) => globSync(join(place, '{LICEN[CS]E,License,license,COPYING}*')));
  const [file] = files.sort();
  const author = typeof about.author === 'string' ? about.author : about.author?.name;
  const text =
    file === undefined
      ? readmeLicense(directory, `Copyright ${author ?? 'its authors'}`)
      : readFile(file, 'utf8');
  if (license === undefined && file === undefined) throw new Error(`${path} does not say its licence`);
  return { name, version, license: license ?? 'its text follows', text: await text };
}

/** Some have theirs at the end of the README. */
async function readmeLicense(directory: string, otherwise: string): Promise<string> {
  const path = join(directory, 'README.md');
  if (!existsSync(path)) return otherwise;
  return (
    /^#+ *Licen[cs]e\b[^\n]*\n([\s\S]*?)(?=^#|(?![\s\S]))/im
      .exec(await readFile(path, 'utf8'))?.[1]
      ?.trim() || otherwise
  );
}

const apacheText = /^ *Apache License\s+Version 2\.0, January 2004[\s\S]*?END OF TERMS AND CONDITIONS/gm;

/** Debian has this text on every host, and wants it named and not copied. */
const apache = `On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0;
elsewhere in /usr/share/licenses or at https://www.apache.org/licenses/LICENSE-2.0.`;

function copyright({ homepage, maintainer }: Description, packages: readonly Licensed[]): string {
  const parts = packages.map(({ name, version, license, text }) => {
    const short = text.trim().replaceAll(apacheText, apache);
    return `${'-'.repeat(78)}\n${name} ${version} (${license})\n\n${short}\n`;
  });
  return `xNBD for libvirt and Xen, ${homepage}

Copyright ${maintainer}

Licensed under the Apache License, Version 2.0 (Apache-2.0).
${apache}

Programs in /usr/lib/xnbd hold these packages of the npm registry, each under
its own licence. Node itself holds others, which its licence names.

${parts.join('\n')}`;
}

function debianChangelog({ name, version, maintainer, epoch }: Description): string {
  const date = new Date(epoch * 1000).toUTCString().replace('GMT', '+0000');
  return `${name} (${version}) unstable; urgency=medium\n\n  * What changed: /usr/share/doc/${name}/NEWS.md.gz\n\n -- ${maintainer}  ${date}\n`;
}
