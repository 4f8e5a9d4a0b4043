/**
 * The demo's story: a guest at A, a proxy at B, the move, the copy behind it, and the proof that nothing was
 * lost.
 */
import { execFile } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ExportStatus } from '../src/control/status.ts';
import { formatBytes, formatSeconds } from '../src/log/numbers.ts';
import { Guest } from './guest.ts';
import { GuestDisk } from './guest-disk.ts';
import { DISK, type Host, startDestination, startOrigin } from './hosts.ts';
import { checkFileSystem, type GuestImage, makeImage } from './image.ts';
import { Latencies, percentile } from './latencies.ts';
import { DiskModel } from './model.ts';
import type { Programs } from './programs.ts';
import { bad, good, liveLine, step, table, title } from './screen.ts';
import { type WatchedExport, watchExport } from './watched-export.ts';

export interface StoryOptions {
  /** A directory of its own. */
  dir: string;
  rttMs: number;
  rateMbit: number;
  sizeMib: number;
}

const SECONDS_AT_SOURCE = 4;
const SECONDS_AFTERWARDS = 2;

/**
 * @returns false when a block differs. @throws Error when a request of the guest fails or reads what it did
 * not write.
 */
export async function tell(options: StoryOptions, programs: Programs): Promise<boolean> {
  const { dir, rttMs, rateMbit } = options;
  title('xNBD: the machine moves first, its disk after it');

  const image = await makeImage(
    dir,
    options.sizeMib * 1024 * 1024,
    new URL('../node_modules', import.meta.url).pathname,
  );
  const original = join(dir, 'original.img');
  await promisify(execFile)('cp', ['--sparse=always', image.path, original]);
  const originalFile = openSync(original, 'r');
  const model = new DiskModel(originalFile, image.size);
  const holes = model.zeroBlocks();
  const dataBytes = image.size - holes.size * 4096;
  describe(image, dataBytes);

  const a = await startOrigin(programs, join(dir, 'a'), image.path);
  const guest = new Guest(model, image.own);
  const diskAtA = await GuestDisk.open(a.socket, DISK);
  guest.resume(diskAtA);
  await Promise.race([sleep(SECONDS_AT_SOURCE * 1000), guest.failed]);
  step(
    'guest at A',
    `${guest.counts.writes} writes, ${guest.counts.reads} verified reads in ${SECONDS_AT_SOURCE} s`,
  );

  const { host: b, wan } = await startDestination(programs, join(dir, 'b'), a, { rttMs, rateMbit });
  try {
    const [origin, proxy] = [await watchExport(a.ctl), await watchExport(b.ctl)];
    step('link', `${rttMs} ms round trip, ${rateMbit} Mbit/s`);
    step(
      'B prepares',
      `${proxy.status.state}: reads pass through, nothing is kept; A is ${origin.status.state}`,
    );
    await Promise.race([sleep(1000), guest.failed]);

    await guest.pause();
    await diskAtA.flush();
    const left = model.snapshot();
    const latencies = new Latencies(b.state, (block) => holes.has(block));
    const moved = await moveGuest(guest, diskAtA, b, latencies);
    const copy = await followDisk(guest, proxy, latencies);
    await Promise.race([origin.until('retired'), guest.failed]);
    step('complete', `every block is at B; A is ${origin.status.state}, and nobody needs it any more`);
    await Promise.race([sleep(SECONDS_AFTERWARDS * 1000), guest.failed]);
    const overLink = (await wan.stats()).downBytes;
    await guest.pause();
    await moved.disk.flush();
    moved.disk.close();
    await Promise.all([origin.stop(), proxy.stop()]);

    const same = await prove(model, left, image, b, { holdsA: a.image });
    summarize({ options, dataBytes, overLink, downtime: moved.downtime, copy, latencies });
    return same;
  } finally {
    closeSync(originalFile);
    await wan.stop();
  }
}

function describe(image: GuestImage, dataBytes: number): void {
  const what = image.ext4
    ? `ext4 with ${image.files} files`
    : 'without a file system, as mkfs.ext4 is not installed';
  step('disk at A', `${formatBytes(image.size)}, ${formatBytes(dataBytes)} of data, ${what}`);
}

interface Moved {
  disk: GuestDisk;
  /** Milliseconds from the last answer at A to the first at B. */
  downtime: number;
}

/** The switchover: the guest leaves A in an orderly way and goes on at B at once. */
async function moveGuest(guest: Guest, diskAtA: GuestDisk, b: Host, latencies: Latencies): Promise<Moved> {
  const before = guest.lastAnswer;
  diskAtA.close();
  const disk = await GuestDisk.open(b.socket, DISK);
  guest.observeRead = (offset, length) => latencies.observe(offset, length);
  guest.resume(disk);
  while (guest.firstAnswer === 0) await Promise.race([sleep(1), guest.failed]);
  const downtime = guest.firstAnswer - before;
  step('the move', `the guest goes on at B; it was away for ${downtime.toFixed(0)} ms`);
  return { disk, downtime };
}

/** Shows the disk arrive. @returns the last status of the relocation. */
async function followDisk(guest: Guest, proxy: WatchedExport, latencies: Latencies): Promise<ExportStatus> {
  const line = liveLine();
  const show = (status: ExportStatus): void =>
    line.show(status, `guest: ${guest.counts.writes} writes, ${guest.counts.reads} reads`);
  proxy.onStatus = show;
  const timer = setInterval(() => show(proxy.status), 250);
  try {
    return await Promise.race([proxy.until('serving'), guest.failed]);
  } finally {
    clearInterval(timer);
    proxy.onStatus = () => undefined;
    guest.observeRead = null;
    latencies.close();
    line.end();
  }
}

/** Compares every block with the model. */
async function prove(
  model: DiskModel,
  left: DiskModel,
  image: GuestImage,
  b: Host,
  { holdsA }: { holdsA: string },
): Promise<boolean> {
  const blocks = Math.ceil(image.size / 4096);
  const compare = (path: string, expected: DiskModel, what: string): boolean => {
    const file = openSync(path, 'r');
    const different = expected.differences(file);
    closeSync(file);
    if (different.length === 0)
      good('compared', `${what}: ${blocks} of ${blocks} blocks are as they must be`);
    else
      bad(
        'compared',
        `${what}: ${different.length} of ${blocks} blocks differ, the first is ${different[0]}`,
      );
    return different.length === 0;
  };
  const atB = compare(b.image, model, 'B has what the guest wrote');
  const atA = compare(holdsA, left, 'A has what the guest left');
  if (!image.ext4) return atA && atB;
  const faults = await checkFileSystem(b.image);
  if (faults === null) good('checked', 'e2fsck finds the file system at B clean');
  else bad('checked', `e2fsck finds faults: ${faults}`);
  return atA && atB && faults === null;
}

interface Summary {
  options: StoryOptions;
  dataBytes: number;
  /** Bytes from A to B. */
  overLink: number;
  downtime: number;
  copy: ExportStatus;
  latencies: Latencies;
}

function summarize({ options, dataBytes, overLink, downtime, copy, latencies }: Summary): void {
  const { cached, cold } = latencies;
  const times = (values: number[]): string => {
    const at = (share: number): string => percentile(values, share).toFixed(1);
    return `p50 ${at(0.5)} ms   p95 ${at(0.95)} ms   p99 ${at(0.99)} ms   (${values.length} reads)`;
  };
  const seconds = copy.secondsSinceTakeover;
  const copyFirst = (dataBytes * 8) / (options.rateMbit * 1e6);
  table([
    ['guest away', `${downtime.toFixed(0)} ms`],
    ['disk complete', `${formatSeconds(seconds)} after the move, ${formatBytes(overLink)} over the link`],
    [
      'fetched',
      `${formatBytes(copy.onDemandBytes)} on demand, ${formatBytes(copy.backgroundBytes)} in the background`,
    ],
    ['skipped', `${formatBytes(copy.skippedBytes)} of holes`],
    ['cached reads', times(cached)],
    ['cold reads', times(cold)],
    ['copying first', `the guest would have begun at B ${formatSeconds(copyFirst)} later at the least`],
  ]);
}
