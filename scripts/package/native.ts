/**
 * What is not only JavaScript: Node, and two npm packages with a library in them, for the architecture of this
 * machine, whose own lie in node_modules.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { HostFile } from './host-file.ts';
import { top } from './host-files.ts';
import { LIB } from './programs.ts';

const run = promisify(execFile);

export interface Architecture {
  /** As Debian, RPM and Node call it. */
  readonly deb: string;
  readonly rpm: string;
  readonly node: string;
  /** What takes symbols out of its files, and Debian's package of that. */
  readonly strip: string;
  readonly binutils: string;
}

/** No arm64: node-unix-socket 0.2.7 names a package for it, which was never published. */
export const architectures: readonly Architecture[] = [
  {
    ...{ deb: 'amd64', rpm: 'x86_64', node: 'x64' },
    ...{ strip: 'x86_64-linux-gnu-strip', binutils: 'binutils-x86-64-linux-gnu' },
  },
];

/** npm packages that are not bundled but lie beside the programs, as they are in node_modules. */
export const besidePrograms = ['node', 'koffi', 'node-unix-socket'];

/** What of them is JavaScript, the same for all architectures. */
const portable = [
  'koffi/package.json',
  'koffi/index.js',
  'koffi/index.cjs',
  'koffi/src/koffi/index.js',
  'koffi/src/koffi/index.cjs',
  'koffi/src/koffi/src/static.js',
  'koffi/src/koffi/src/static.cjs',
  'node-unix-socket/package.json',
  ...['index', 'dgram', 'seqpacket', 'socket', 'addon'].map((name) => `node-unix-socket/js/${name}.js`),
];

interface NativePackage {
  readonly name: string;
  /** The npm package that brings it. */
  readonly of: string;
  readonly files: readonly string[];
  /** Where files go, below /usr/lib/xnbd. */
  readonly to: (file: string) => string;
}

function nativePackages(cpu: string): NativePackage[] {
  const beside = (name: string) => (file: string) => `node_modules/${name}/${file}`;
  const [koffi, socket] = [`@koromix/koffi-linux-${cpu}`, `node-unix-socket-linux-${cpu}-gnu`];
  return [
    { name: `node-linux-${cpu}`, of: 'node', files: ['bin/node'], to: () => 'node' },
    {
      name: koffi,
      of: 'koffi',
      files: ['package.json', 'index.js', `linux_${cpu}/koffi.node`],
      to: beside(koffi),
    },
    {
      name: socket,
      of: 'node-unix-socket',
      files: ['package.json', `node-unix-socket.linux-${cpu}-gnu.node`],
      to: beside(socket),
    },
  ];
}

/** @param work where files are made without symbols; null: they are taken as they are */
export async function nativeFiles(architecture: Architecture, work: string | null): Promise<HostFile[]> {
  const files: HostFile[] = portable.map((path) => ({
    to: `${LIB}/node_modules/${path}`,
    mode: 0o644,
    from: { file: join(top, 'node_modules', path) },
  }));
  for (const native of nativePackages(architecture.node)) {
    const directory = directoryOf(native);
    for (const name of native.files) {
      const source = join(directory, name);
      const isNative = !/\.js(on)?$/.test(name);
      const to = `${LIB}/${native.to(name)}`;
      const file = isNative && work !== null ? await stripped(source, join(work, to), architecture) : source;
      files.push({ to, mode: name === 'bin/node' ? 0o755 : 0o644, from: { file } });
    }
  }
  return files;
}

/** Where it lies. @throws Error where the packages of this machine are those of another architecture */
function directoryOf({ name, of }: NativePackage): string {
  const modules = join(top, 'node_modules');
  const here = [join(modules, name), join(modules, of, 'node_modules', name)].find(existsSync);
  if (here !== undefined) return here;
  throw new Error(`node_modules has no ${name}: a package is built on a machine of its own architecture`);
}

/** Without symbols, and what only debuggers read: 18 of Node's 126 MB. What libraries look up stays. */
async function stripped(source: string, to: string, { strip, binutils, deb }: Architecture): Promise<string> {
  await mkdir(dirname(to), { recursive: true });
  try {
    await run(strip, ['--strip-all', '-o', to, source]);
    return to;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error(`the package for ${deb} needs ${strip}: apt-get install ${binutils}`);
  }
}
