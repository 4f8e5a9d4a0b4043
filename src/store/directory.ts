/**
 * Names that survive loss of power. A file that is synced keeps its data, not its name: that is its
 * directory's, which has to be synced after the name was made, changed or removed.
 */
import { access, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Makes the entries of a directory (creations, renames, removals) survive loss of power. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * Makes a directory, with its parents, durably.
 *
 * A process that finds a directory does not know whether the one that made it lived to sync its name. So
 * nothing is made in a directory before its own name is synced, and one that exists already has its name
 * synced again.
 */
export async function makeDirectory(path: string, mode = 0o700): Promise<void> {
  const parent = dirname(path);
  const missing = await access(path).then(
    () => false,
    () => true,
  );
  if (missing) {
    await makeDirectory(parent, mode);
    await mkdir(path, { mode }).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    });
  }
  await syncDirectory(parent).catch((error: unknown) => {
    // A directory that we may not list is not one that one of us made something in.
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') throw error;
  });
}

/**
 * Replaces a file as a whole: written aside as `PATH.new`, synced, renamed, and its directory synced. After a
 * loss of power there is either the old one or the new one; when this resolves, the new one.
 */
export async function replaceFile(path: string, text: string): Promise<void> {
  const aside = `${path}.new`;
  const file = await open(aside, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(aside, path);
  await syncDirectory(dirname(path));
}

/**
 * Removes a file, or a directory and what is in it, where there is one: it does not come back after a loss of
 * power.
 */
export async function removeDurably(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
  await syncDirectory(dirname(path));
}
