/**
 * What the files of a present map say when a process opens them: what is durable, what the page cache adds,
 * and what of a guest's is lost.
 */
import { join } from 'node:path';
import { log } from '../../log/log.ts';
import { BLOCK_SIZE } from '../block-ranges.ts';
import { Bitmap } from './bitmap.ts';
import { LostWrites } from './lost-writes.ts';
import {
  checkIdentity,
  createMapFile,
  loadBits,
  type MapIdentity,
  mapHeader,
  openMapFile,
  type StoredMap,
} from './map-file.ts';
import { isTheSame, type PageCache } from './page-cache.ts';
import { WrittenMap } from './written-map.ts';

export const durableName = 'present.map';
export const liveName = 'present.live';
export const PRESENT_MAP = 'present map';

export interface StoredMaps {
  bits: Bitmap;
  /** Pages with bits that the durable file lacks. */
  dirty: Set<number>;
  written: WrittenMap;
  /** Blocks that a guest has written and only the page cache vouches for. */
  unsynced: Bitmap;
  lost: LostWrites | undefined;
}

/**
 * Reads them. What is lost is noted on disk before this returns: then a new live file may be made.
 * @param image path of the image
 * @throws Error, one line, when there is no map or it belongs to another disk, image or origin.
 */
export async function readStoredMaps(
  stateDir: string,
  identity: MapIdentity,
  image: string,
  cache: PageCache,
): Promise<StoredMaps> {
  const bits = await readDurable(stateDir, identity, image);
  const live = await readLive(stateDir, identity, image, cache, bits.length);
  const added = live.bits.without(bits);
  const dirty = new Set(live.counts ? bits.add(added) : []);
  const written = await WrittenMap.open(stateDir, identity, bits, image);
  const unsynced = written.among(added);
  return { bits, dirty, written, unsynced, lost: await whatIsLost() };

  async function whatIsLost(): Promise<LostWrites | undefined> {
    // The guest of an earlier boot ended with it, and knew that what it had not flushed might be gone.
    if (live.counts || !live.ofThisBoot) return await LostWrites.read(stateDir, bits.length);
    const why = `the storage of ${image} or of ${stateDir} went away and came back, or an older release was killed`;
    log.warning(`${stateDir}: ${why}: ${added.count} blocks that were not synced before are fetched again`);
    if (unsynced.count === 0) return await LostWrites.read(stateDir, bits.length);
    const lost = await LostWrites.add(stateDir, unsynced, why);
    await lost.save(stateDir, identity);
    return lost;
  }
}

async function readDurable(stateDir: string, identity: MapIdentity, image: string): Promise<Bitmap> {
  const bits = new Bitmap(blocksOf(identity));
  const path = join(stateDir, durableName);
  const stored = await openMapFile(path, PRESENT_MAP);
  try {
    checkIdentity(stored, identity, image);
    await loadBits(stored, bits);
  } finally {
    await stored.file.close();
  }
  if (stored.version === 1)
    await (await createMapFile(path, mapHeader(PRESENT_MAP, identity, null), bits)).close();
  return bits;
}

interface Live {
  bits: Bitmap;
  counts: boolean;
  ofThisBoot: boolean;
}

async function readLive(
  stateDir: string,
  identity: MapIdentity,
  image: string,
  cache: PageCache,
  blocks: number,
): Promise<Live> {
  const bits = new Bitmap(blocks);
  const live = await openMapFile(join(stateDir, liveName), PRESENT_MAP).catch(() => undefined);
  if (live === undefined) return { bits, counts: false, ofThisBoot: false };
  try {
    const ofThisBoot = bootOf(live) === cache.boot;
    if (!ofThisBoot) return { bits, counts: false, ofThisBoot };
    checkIdentity(live, identity, image);
    await loadBits(live, bits);
    // What the kernel could not write of it, it may have forgotten.
    const whole = await live.file.datasync().then(
      () => true,
      () => false,
    );
    return { bits, counts: whole && isTheSame(live.fields['cache'], cache, true), ofThisBoot };
  } finally {
    await live.file.close();
  }
}

/** Version 1 had it beside the identity. */
function bootOf({ fields }: StoredMap): unknown {
  return (fields['cache'] as PageCache | null | undefined)?.boot ?? fields['boot'];
}

/** Blocks of the image, the last one perhaps short. */
export function blocksOf({ sizeBytes }: MapIdentity): number {
  return Math.ceil(sizeBytes / BLOCK_SIZE);
}
