/** One relocation over a line of packets, measured. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { addressOf, PacketWan, type Site } from '../../test/lab/net/packets/packet-wan.ts';
import { waitFor } from '../../test/lab/wait-for.ts';
import { boot, type Felt, work } from './guest.ts';
import { Hosts, makeDisks } from './hosts.ts';

const BULK = join(import.meta.dirname, 'foreign-flow.ts');
const BULK_PORT = 5001;

export interface Case {
  rttMs: number;
  rateMbit: number;
  disks: number;
  /** Percent of the packets. */
  loss: number;
  /** A bulk TCP flow of somebody else goes the same way. */
  foreign: boolean;
  /** The rate falls to a tenth after a third of the time, and is back after two. */
  step: boolean;
  /** What the line needs for the payload. */
  seconds: number;
  /** What TCP does where a program chooses nothing; undefined: what the kernel does. */
  congestion: string | undefined;
}

export interface Outcome {
  felt: Felt[];
  /** Of all disks together. */
  payloadBytes: number;
  /** Packets that did not fit the queue at the bottleneck. */
  dropped: number;
  /** What the foreign flow got, part of the line; null: there was none. */
  foreignShare: number | null;
  /** When the rate changed, seconds since the takeover. */
  steps: number[];
}

export interface Place {
  /** Of built programs. */
  programs: string;
  /** For images and sockets; emptied. */
  directory: string;
  certificates: Record<Site, string>;
}

export async function relocate(wanted: Case, { programs, directory, certificates }: Place): Promise<Outcome> {
  const { rttMs, rateMbit, seconds, congestion } = wanted;
  const bytes = (seconds * rateMbit * 1e6) / 8 / wanted.disks;
  const sizeBytes = Math.ceil(bytes / 2 ** 20) * 2 ** 20;
  const wan = await PacketWan.start({ rttMs, rateMbit, congestion });
  await mkdir(directory, { recursive: true });
  const hosts = new Hosts(wan, directory, programs, certificates);
  try {
    await wan.set('ab', { loss: wanted.loss });
    const arriving = await hosts.lend(await makeDisks(join(directory, 'a'), wanted.disks, sizeBytes));
    const guests = await Promise.all(arriving.map(boot));
    const foreign = wanted.foreign ? await startForeign(hosts) : null;
    if (foreign !== null) await sleep(5000);
    const before = (await wan.stats()).ab;
    const foreignBefore = foreign?.() ?? 0;
    const began = performance.now();
    const steps = wanted.step ? [seconds / 3, (2 * seconds) / 3] : [];
    const timers = steps.map((at, index) =>
      setTimeout(() => void wan.set('both', { rate: index === 0 ? rateMbit / 10 : rateMbit }), at * 1000),
    );
    const felt = await Promise.all(
      arriving.map((each, at) =>
        work(guests[at]!, each, {
          rttMs,
          pauseMs: wanted.disks > 1 ? 250 : 50,
          idealSeconds: seconds,
          takenOverAt: () => began,
        }),
      ),
    );
    for (const timer of timers) clearTimeout(timer);
    const took = (performance.now() - began) / 1000;
    const after = (await wan.stats()).ab;
    const foreignBytes = (foreign?.() ?? 0) - foreignBefore;
    for (const guest of guests) guest.connection.destroy();
    return {
      felt,
      payloadBytes: sizeBytes * wanted.disks,
      dropped: after.dropped - before.dropped,
      foreignShare: foreign === null ? null : (foreignBytes * 8) / took / 1e6 / rateMbit,
      steps,
    };
  } finally {
    await hosts.end();
    await wan.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

/** @returns tells the bytes that it has carried */
async function startForeign(hosts: Hosts): Promise<() => number> {
  const to = `${addressOf.b}:${BULK_PORT}`;
  const taker = await hosts.also('b', [process.execPath, BULK, 'take', to]);
  await waitFor('the foreign flow', () => taker.said().includes('ready'));
  await hosts.also('a', [process.execPath, BULK, 'send', to]);
  return () => Number(taker.said().trim().split('\n').at(-1)) || 0;
}
