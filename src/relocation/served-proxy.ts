/** A proxy as an export serves it: its disk, and what it answers to the lender and on the control socket. */
import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { ExportStatus } from '../control/status.ts';
import type { DiskHandOver } from '../export/hand-over/hand-over.ts';
import type { Taken } from '../export/hand-over/taken.ts';
import type { Served } from '../export/serve.ts';
import type { Image } from '../store/image/image.ts';
import { DiskSettings } from '../store/records/disk-settings.ts';
import {
  checkExportName,
  type ExportRecord,
  readRecord,
  removeRecord,
  secondsSinceTakeover,
} from '../store/records/record.ts';
import type { RecordKeeper } from '../store/records/record-keeper.ts';
import { lockState, removeEmptyStateDirectory, type StateLock } from '../store/records/state-lock.ts';
import { CopyCaps } from './copy/copy-caps.ts';
import { averageRate } from './disk-copy.ts';
import { openProxy, type ProxyOptions } from './open-proxy.ts';
import { Relocation } from './relocation.ts';
import { readMemory } from './relocation-memory.ts';

export interface ServedProxy extends Served {
  relocation: Relocation;
}

interface Described {
  relocation: Relocation;
  keeper: RecordKeeper;
  image: Image;
  caps: CopyCaps;
}

/**
 * @param taken what an earlier process of the disk has handed over. @throws Error of one line that names the
 * thing and the way out.
 */
export async function openServedProxy(
  options: ProxyOptions,
  taken: Taken | null = null,
): Promise<ServedProxy> {
  checkExportName(options.name);
  const directory = dirname(resolve(options.image));
  // First of all: the state directory beside the image would be made with its parents.
  if (!existsSync(directory)) throw new Error(`image ${options.image}: there is no directory ${directory}`);
  const lock = await lockState(options.stateDir);
  const { keeper, image, link } = await openProxy(options).catch(async (error: unknown) => {
    // One that never began leaves nothing.
    if ((await readRecord(options.stateDir).catch(() => null)) === undefined)
      await removeState(options.stateDir);
    await lock.release();
    throw error;
  });
  const { stateDir, waitForGuest = false, awaitShare = false } = options;
  const settings = new DiskSettings(keeper, options.settings);
  const memory = readMemory(taken?.state.disk);
  const connection = memory === null || memory.link === null ? -1 : taken!.descriptor(memory.link);
  if (connection >= 0) link?.relieve(connection);
  const caps = new CopyCaps(settings, awaitShare, memory?.share);
  const relocation = await Relocation.open({
    keeper,
    image,
    link,
    stateDir,
    settings,
    caps,
    run: options.run ?? null,
    waitForGuest,
    memory,
  }).catch(async (error: unknown) => {
    link?.close();
    await image.close();
    await lock.release();
    throw error;
  });
  const { record } = keeper;
  return {
    relocation,
    keeper,
    disk: relocation.disk,
    baseState: () => (relocation.disk.phase === 'complete' ? 'serving' : relocation.disk.phase),
    canLend: () => {
      if (relocation.givingUp) return 'it is being given up';
      const standby = relocation.disk.phase === 'standby';
      return standby ? `it is in standby itself: its disk is still at ${record.origin?.uri}` : null;
    },
    onRetired: () => void relocation.retire(),
    originAway: () => isAway(relocation),
    describe: () => describe({ relocation, keeper, image, caps }),
    takeover: () => {
      relocation.guestRuns();
      return relocation.takeOver("an administrator's or the daemon's word");
    },
    verification: relocation.verification,
    settings,
    tellShare: (share) => caps.tellShare(share),
    abandon: async () => {
      await relocation.abandon();
      await removeState(options.stateDir);
      await lock.release();
    },
    handOver: handOver(relocation, image, lock, caps),
    close: async () => {
      await relocation.stop();
      await image.close();
      await lock.release();
    },
  };
}

function handOver(relocation: Relocation, image: Image, lock: StateLock, caps: CopyCaps): DiskHandOver {
  return {
    refuses: () => {
      if (relocation.givingUp) return 'it is being given up';
      return relocation.takingOver ? 'its origin is being fenced: ask again' : image.lostSync;
    },
    letWaitersGo: () => relocation.waits.letGo(),
    close: async () => {
      const { memory, connection } = await relocation.leave();
      await image.close();
      await lock.release();
      return { state: { ...memory, share: caps.share }, descriptors: connection < 0 ? [] : [connection] };
    },
  };
}

/** What a proxy knows of its status. */
function describe({ relocation, keeper, image, caps }: Described): Partial<ExportStatus> {
  return {
    presentBytes: relocation.presentBytes,
    originReachable: !isAway(relocation),
    originUnreachableSince: relocation.link?.unreachableSince?.toISOString() ?? null,
    originUnreachableReason: relocation.link?.unreachableReason ?? null,
    originDataBytes: relocation.originDataBytes,
    originTimeoutSeconds: relocation.waits.seconds,
    requestsWaiting: relocation.waits.count,
    missingBytes: missingBytes(relocation, keeper.record),
    arrivalRate: relocation.copy?.arrival.rate ?? 0,
    averageRate: averageRate(relocation.counters, keeper.record),
    secondsLeft: relocation.copy === null ? null : relocation.copy.arrival.secondsLeft,
    alarm: relocation.copy?.arrival.alarm ?? null,
    share: caps.share.rate,
    copyHeld: relocation.copy?.held ?? false,
    copyPaused: relocation.copy?.paused ?? null,
    badBytes: relocation.copy?.badBytes ?? 0,
    badRanges: relocation.copy?.badRanges ?? [],
    ...relocation.counters,
    secondsSinceTakeover: secondsSinceTakeover(keeper.record),
    verification: relocation.verification.status,
    // What a disk that arrives meets in its image the copy tells itself, for as long as it lasts.
    error: relocation.error ?? (relocation.copy === null ? image.trouble : image.lostSync),
  };
}

/** Bytes that are only at the origin, as far as is known. */
function missingBytes({ copy, originDataBytes }: Relocation, { complete, sizeBytes }: ExportRecord): number {
  if (complete) return 0;
  return copy?.missingBytes ?? originDataBytes ?? sizeBytes;
}

function isAway({ link }: Relocation): boolean {
  return link !== null && link.unreachableSince !== null;
}

/**
 * Removes what an export keeps in its state directory, and the directory if nothing else is in it; durably.
 * The caller has the lock.
 */
async function removeState(stateDir: string): Promise<void> {
  await removeRecord(stateDir);
  await removeEmptyStateDirectory(stateDir);
}
