/** Trees of files, put down on a real file system and compared with one. */
import { join } from 'node:path';
import { playing, real } from './recorder.ts';
import { type Inode, type Node, ROOT, type Tree } from './trace.ts';

/** Every path that can be reached, relative to the root ('' itself included), parents first. */
export function pathsOf(tree: Tree): Map<string, Inode> {
  const paths = new Map<string, Inode>([['', ROOT]]);
  for (const [path, inode] of paths) {
    const node = tree.get(inode)!;
    if (node.kind === 'file') continue;
    for (const [name, child] of node.entries) paths.set(path === '' ? name : `${path}/${name}`, child);
  }
  return paths;
}

/** Makes `root` hold this tree and nothing else; whoever asks for an inode there gets the tree's. */
export function putDown(tree: Tree, root: string): void {
  const { fs } = real;
  fs.rmSync(root, { recursive: true, force: true });
  playing.inodes.clear();
  for (const [path, inode] of pathsOf(tree)) {
    const full = join(root, path);
    const node = tree.get(inode)!;
    if (node.kind === 'directory') fs.mkdirSync(full, { mode: 0o700 });
    else writeSparse(full, node.bytes);
    playing.inodes.set(full, inode);
  }
}

const PIECE = 4096;

/** Zeros stay holes, so that a disk's allocation is what it was, as far as bytes can tell. */
function writeSparse(path: string, bytes: Buffer): void {
  const { fs } = real;
  const fd = fs.openSync(path, 'wx', 0o600);
  fs.ftruncateSync(fd, bytes.length);
  for (let at = 0; at < bytes.length; ) {
    let end = at;
    while (end < bytes.length && !isZero(bytes.subarray(end, end + PIECE))) end += PIECE;
    if (end > at) fs.writeSync(fd, bytes, at, Math.min(end, bytes.length) - at, at);
    at = end + PIECE;
  }
  fs.closeSync(fd);
}

const ZEROS = Buffer.alloc(PIECE);

function isZero(bytes: Buffer): boolean {
  return ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0;
}

/** @returns how `root` differs from the tree, one line, or undefined. */
export function differenceFrom(tree: Tree, root: string): string | undefined {
  const { fs } = real;
  const expected = pathsOf(tree);
  const found = new Set<string>(['']);
  for (const path of found) {
    const full = join(root, path);
    const node: Node | undefined = tree.get(expected.get(path) ?? 0);
    const isDirectory = fs.lstatSync(full).isDirectory();
    if (node === undefined) return `${path} is there, and nobody made it`;
    if (isDirectory !== (node.kind === 'directory')) return `${path} is of another kind`;
    if (isDirectory)
      for (const name of fs.readdirSync(full)) found.add(path === '' ? name : `${path}/${name}`);
    else if (node.kind === 'file' && !node.bytes.equals(fs.readFileSync(full)))
      return `${path} has other bytes than were written`;
  }
  for (const path of expected.keys()) if (!found.has(path)) return `${path} is gone, and nobody removed it`;
  return undefined;
}
