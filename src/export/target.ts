/** Opening a target: image, state and record must belong together. */
import { existsSync } from 'node:fs';
import { log } from '../log/log.ts';
import { Image } from '../store/image/image.ts';
import { checkExportName, type ExportRecord, newRecord, readRecord } from '../store/records/record.ts';
import { RecordKeeper } from '../store/records/record-keeper.ts';
import { lockState, type StateLock } from '../store/records/state-lock.ts';
import { LocalDisk } from './local-disk.ts';
import type { Served } from './serve.ts';

export interface TargetOptions {
  name: string;
  image: string;
  stateDir: string;
  readOnly: boolean;
}

/** @throws Error of one line that names the thing and the way out. */
export async function openTarget(options: TargetOptions): Promise<Served> {
  checkExportName(options.name);
  const image = await Image.open(options.image, { readOnly: options.readOnly });
  let lock: StateLock | undefined;
  const close = async () => {
    await image.close();
    await lock?.release();
  };
  let keeper: RecordKeeper;
  try {
    lock = await lockState(options.stateDir);
    keeper = await keepRecord(options, image);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    keeper,
    disk: new LocalDisk(image),
    baseState: () => 'serving',
    canLend: () => null,
    onRetired: () => undefined,
    describe: () => ({ error: image.trouble }),
    takeover: () =>
      Promise.reject(new Error(`export ${options.name} has every block already: nothing to take over`)),
    abandon: () =>
      Promise.reject(new Error(`export ${options.name} is no relocation: use stop, its image stays`)),
    // The next process would not know of a sync that failed, nor the kernel tell it.
    handOver: {
      refuses: () => image.lostSync,
      close: async () => {
        await close();
        return { state: null, descriptors: [] };
      },
    },
    close,
  };
}

async function keepRecord(options: TargetOptions, image: Image): Promise<RecordKeeper> {
  const { name, stateDir } = options;
  const found = await readRecord(stateDir);
  if (found === undefined) {
    const keeper = new RecordKeeper(stateDir, newRecord(name, image.path, image.size));
    await keeper.update({});
    return keeper;
  }
  checkRecord(found, options, image);
  const keeper = new RecordKeeper(stateDir, found);
  if (hasGrown(found, image)) {
    log.info(`its image has grown from ${found.sizeBytes} bytes to ${image.size}: so has the disk`);
    await keeper.update({ sizeBytes: image.size });
  }
  if (found.image !== image.path) {
    log.warning(`its image moved from ${found.image} to ${image.path}`);
    await keeper.update({ image: image.path });
  }
  return keeper;
}

/**
 * An administrator has made the image of a disk at rest longer, and it is the disk that there is. One that
 * other hosts know something of must be as long as they know it, and one that is shorter has lost something.
 */
function hasGrown({ state, complete, origin, lease, sizeBytes }: ExportRecord, image: Image): boolean {
  return image.size > sizeBytes && state === 'serving' && complete && origin === null && lease === null;
}

function checkRecord(record: ExportRecord, options: TargetOptions, image: Image): void {
  const { name, stateDir } = options;
  if (record.name !== name) {
    throw new Error(
      `state directory ${stateDir} belongs to export '${record.name}', not '${name}': give another --state`,
    );
  }
  if (record.image !== image.path && existsSync(record.image)) {
    throw new Error(
      `state directory ${stateDir} belongs to image ${record.image}, not ${image.path}: give another --state`,
    );
  }
  if (record.sizeBytes !== image.size && !hasGrown(record, image)) {
    throw new Error(
      `image ${image.path} has ${image.size} bytes, but export '${name}' has ${record.sizeBytes}: ` +
        `restore its size (an image may grow while its disk is at rest and whole; this one is ${record.state})`,
    );
  }
  const { state, complete } = record;
  // A retired export serves no client, so what its image misses does not matter.
  if (state === 'standby' || state === 'relocating' || (!complete && state !== 'retired')) {
    throw new Error(
      `export '${name}' still misses blocks: start it as a proxy, with its origin ${record.origin?.uri}`,
    );
  }
}
