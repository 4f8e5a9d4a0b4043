/** One file that a host gets: what is in it and where it goes. */
import { chmod, copyFile, mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

export interface HostFile {
  /** Where it goes: an absolute path. */
  readonly to: string;
  readonly mode: number;
  /** A file here, or what is to be in it. */
  readonly from: { readonly file: string } | { readonly text: string | Buffer };
  /** Belongs to the administrator once it is there: an upgrade asks before it changes it. */
  readonly configuration?: boolean;
}

/** Replaces each whole: what runs keeps the file that it has open. @param root stands before every path. */
export async function place(files: readonly HostFile[], root: string): Promise<void> {
  for (const { to, mode, from } of files) {
    const path = join(root, to);
    await mkdir(dirname(path), { recursive: true, mode: 0o755 });
    const draft = `${path}.xnbd-new`;
    if ('file' in from) await copyFile(from.file, draft);
    else await writeFile(draft, from.text);
    await chmod(draft, mode);
    await rename(draft, path);
  }
}
