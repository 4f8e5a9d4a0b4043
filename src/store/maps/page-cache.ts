/**
 * When what only the page cache holds may be trusted.
 *
 * After kill -9 the next process finds in the page cache all that the one before it wrote, synced or not.
 * That holds within the same boot, for the same superblock of the image and of the state directory
 * (system/storage-instance.ts), and as long as no sync has failed. Files that count on it (`present.live`,
 * `written.live`) name boot and storage in their header, and are trusted only where both are found again; a
 * name that cannot be had is never found again. A sync that failed takes the file itself away
 * (lost-writes.ts).
 */
import { bootId } from '../../system/boot-id.ts';
import { storageInstance } from '../../system/storage-instance.ts';

/** Whose page cache vouches for a file; null: that cannot be told. */
export interface PageCache {
  boot: string;
  /** Storage of the image, where the file tells of its data. */
  image: string | null;
  /** Storage of the state directory. */
  state: string | null;
}

/** @param image path; null for a file that tells nothing of the image's data */
export async function pageCacheOf(image: string | null, stateDir: string): Promise<PageCache> {
  return {
    boot: await bootId(),
    image: image === null ? null : await storageInstance(image),
    state: await storageInstance(stateDir),
  };
}

/** What was written under `then` is in the page cache `now`. @param then as a file's header has it */
export function isTheSame(then: unknown, now: PageCache, ofImage: boolean): boolean {
  if (typeof then !== 'object' || then === null) return false;
  const { boot, image, state } = then as Partial<PageCache>;
  if (boot !== now.boot || now.state === null || state !== now.state) return false;
  return !ofImage || (now.image !== null && image === now.image);
}
