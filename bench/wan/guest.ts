/** What a guest feels from the takeover until its disk is complete: cold and cached 4 KiB reads. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectControl } from '../../src/control/client.ts';
import { type Client, connectClient } from '../../test/lab/nbd/client.ts';
import type { Arriving } from './hosts.ts';

const BLOCK = 4096;
/**
 * Reads are spread over the last part of the disk, where a copy in sequence comes last, each far from those
 * before it, because what lies around a read is copied next.
 */
const COLD_PART = 0.5;
const GOLDEN = (Math.sqrt(5) - 1) / 2;
/** One that took less of a round trip found its block here. */
const COLD_RTT = 0.9;
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
  rttMs: number;
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
  { rttMs, pauseMs, idealSeconds, takenOverAt }: GuestOptions,
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
    const blocks = Math.floor((disk.sizeBytes * COLD_PART) / BLOCK);
    for (let count = 1; felt.seconds === Number.POSITIVE_INFINITY; count++) {
      if (present > disk.sizeBytes * (1 - COLD_PART / 2)) return;
      await timed(felt.cold, disk.sizeBytes - BLOCK - Math.floor(((count * GOLDEN) % 1) * blocks) * BLOCK);
      if (felt.cold.at(-1)!.ms < rttMs * COLD_RTT) felt.cold.pop();
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
