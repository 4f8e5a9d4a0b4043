/**
 * `npm run package`: packages for Debian and for RPM, into dist/packages/.
 *
 *     npm run package                             deb and rpm
 *     npm run package -- deb --arch amd64         one of them
 *     ... --out DIR --package-version 0.2.0 --fast
 *
 * The same commit makes the same bytes, wherever and whenever it is built: every time in a package is that of
 * the commit (or SOURCE_DATE_EPOCH). `--fast` compresses little, for tests.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { completionFiles } from './completion.ts';
import { buildDeb } from './deb.ts';
import type { HostFile } from './host-file.ts';
import { hostFiles, top } from './host-files.ts';
import { manualFiles } from './manual.ts';
import { type Architecture, architectures, nativeFiles } from './native.ts';
import { paperFiles } from './papers.ts';
import { programFiles } from './programs.ts';
import { buildRpm } from './rpm.ts';

const run = promisify(execFile);

/** What a package says of itself. */
export interface Description {
  readonly name: string;
  readonly version: string;
  readonly architecture: Architecture;
  readonly summary: string;
  /** Lines; an empty one parts paragraphs. */
  readonly description: readonly string[];
  readonly maintainer: string;
  readonly homepage: string;
  /** Seconds since 1970: what every time in the package is. */
  readonly epoch: number;
  /** Compress little. */
  readonly fast: boolean;
}

const kinds = { deb: buildDeb, rpm: buildRpm } as const;
type Kind = keyof typeof kinds;

const about = {
  name: packageJson.name,
  summary: "virtual machines' disks that follow a libvirt migration",
  description: [
    'virsh migrate --live, and the disk of the guest follows: the destination serves',
    'it over NBD before it has one block of it, fetches from the source what the',
    'guest asks for, keeps every write, copies the rest in the background, and then',
    'lets go of the source. The guest and its hypervisor notice nothing.',
    '',
    'Programs, hooks of libvirt (QEMU and libxl), services, and the Node that the',
    'programs run with.',
  ],
  maintainer: packageJson.author,
  homepage: packageJson.homepage,
};

async function commitTime(): Promise<number> {
  const told = process.env['SOURCE_DATE_EPOCH'];
  const text = told ?? (await run('git', ['log', '-1', '--format=%ct'], { cwd: top })).stdout;
  return Number(text);
}

/** Every file of the package for an architecture. @param work where files are made */
async function contents(description: Description, work: string): Promise<HostFile[]> {
  const { files, bundled } = await programFiles(join(work, 'programs'));
  return [
    ...files,
    ...(await nativeFiles(description.architecture, join(work, 'native'))),
    ...hostFiles(),
    ...manualFiles(description),
    ...completionFiles(),
    ...(await paperFiles(description, bundled)),
  ].sort((a, b) => (a.to < b.to ? -1 : 1));
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    arch: { type: 'string', multiple: true },
    out: { type: 'string', default: join(top, 'dist/packages') },
    'package-version': { type: 'string', default: packageJson.version },
    fast: { type: 'boolean', default: false },
  },
});
const chosenKinds = (Object.keys(kinds) as Kind[]).filter(
  (kind) => positionals.length === 0 || positionals.includes(kind),
);
const chosen = architectures.filter(({ deb }) => values.arch?.includes(deb) ?? true);
const out = resolve(values.out);
await mkdir(out, { recursive: true });
process.umask(0o022);
for (const architecture of chosen) {
  const work = await mkdtemp(join(tmpdir(), 'xnbd-package-'));
  try {
    const description: Description = {
      ...about,
      version: values['package-version'],
      architecture,
      epoch: await commitTime(),
      fast: values.fast,
    };
    const files = await contents(description, work);
    for (const kind of chosenKinds) {
      const name = await kinds[kind](files, description, work, out);
      const { size } = await stat(join(out, name));
      console.log(`${join(out, name)}: ${(size / 1e6).toFixed(1)} MB`);
    }
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
