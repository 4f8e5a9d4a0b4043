/** What a guest feels from the takeover until its disk is complete: cold and cached 4 KiB reads. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectControl } from '../../src/control/client.ts';
import { type Client, connectClient } from '../../test/lab/nbd/client.ts';
import type { Arriving } from './hosts.ts';

const BLOCK = 4096;
/** Between two cold reads: what else there is near it is not what they measure. */
const STRIDE = 64 * 1024;
/** Cold reads are of the end of the disk, where a copy in sequence comes last, up to this part of it. */
const COLD_PART = 0.25;
const LOOK_MS = 50;
const CACHED_PER_COLD = 4;
/** A copy that takes this many times as long as it should is not waited for. */
const PATIENCE = 8;

export interface Read {
  /** Seconds since the takeover, when it was asked for. */
  at: number;
  /** How long it took. */
  ms: number;
}

/** What became of one disk. */
export interface Felt {
  cold: Read[];
  cached: Read[];
  /** Seconds from the takeover until every block was here. */
  seconds: number;
}

export interface GuestOptions {
  /** Of pause between two cold reads. */
  pauseMs: number;
  /** What the line needs for the disk. */
  idealSeconds: number;
  takenOverAt: () => number;
}

/** A guest that has not written yet. */
export async function boot({ socket, disk }: Arriving): Promise<Client> {
  return await connectClient(`nbd+unix:///${disk.name}?socket=${socket}`);
}

/** Its first write is the takeover. @returns what it felt, once the disk is complete */
export async function work(
  guest: Client,
  { socket, disk }: Arriving,
  { pauseMs, idealSeconds, takenOverAt }: GuestOptions,
): Promise<Felt> {
  const began = takenOverAt();
  const since = (): number => (performance.now() - began) / 1000;
  const felt: Felt = { cold: [], cached: [], seconds: Number.POSITIVE_INFINITY };
  await guest.write(0, Buffer.alloc(BLOCK, 1));
  const timed = async (into: Read[], offset: number): Promise<void> => {
    const at = since();
    await guest.read(offset, BLOCK);
    into.push({ at, ms: (since() - at) * 1000 });
  };
  let present = 0;
  const reading = async (): Promise<void> => {
    const end = disk.sizeBytes - BLOCK;
    for (let offset = end; offset > disk.sizeBytes * (1 - COLD_PART); offset -= STRIDE) {
      if (present > disk.sizeBytes * (1 - COLD_PART) || felt.seconds < Number.POSITIVE_INFINITY) return;
      await timed(felt.cold, offset);
      for (let times = 0; times < CACHED_PER_COLD; times++) await timed(felt.cached, 0);
      await sleep(pauseMs);
    }
  };
  const watching = async (): Promise<void> => {
    const control = await connectControl(`${socket}.ctl`);
    for (;;) {
      const status = await control.status();
      present = status.presentBytes;
      if (status.presentBytes === disk.sizeBytes) break;
      if (since() > idealSeconds * PATIENCE + 10) return;
      await sleep(LOOK_MS);
    }
    felt.seconds = since();
    control.close();
  };
  await Promise.all([reading(), watching()]);
  return felt;
}
