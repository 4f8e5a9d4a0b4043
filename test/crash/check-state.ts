/**
 * Opens what a crash left with the product's own code, and holds it against what was promised: both hosts
 * start again, the source is as fenced as it was, nobody else may write, and every byte is one that the guest
 * may see.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { BLOCK_SIZE } from '../../src/store/block-ranges.ts';
import { readRecord } from '../../src/store/records/record.ts';
import { type Crash, leftBy } from './files/lost-power.ts';
import { playing } from './files/recorder.ts';
import type { Inode, Trace, Tree } from './files/trace.ts';
import { pathsOf, putDown } from './files/tree.ts';
import type { History, HostName } from './lives/history.ts';
import {
  asItIs,
  closeSource,
  type Destination,
  openDestination,
  openSource,
  type Places,
  placesOf,
  readAll,
  type Source,
} from './lives/hosts.ts';
import type { DestinationState, Marks, SourceState } from './lives/promises.ts';

export interface Recorded {
  places: Places;
  trace: Trace;
  history: History;
  marks: Marks;
  boot: string;
}

export interface CrashPoint {
  moment: number;
  crash: Record<HostName, HostCrash>;
}

/**
 * `remount`: the process is killed, and the storage of the host's images goes and comes back within the boot.
 */
export type HostCrash = Crash | 'remount';

const READ_LIMIT_MS = 5000;

/** @returns what is left after the crash; the destination's boot is another one after a loss of power. */
export function playCrash(recorded: Recorded, { moment, crash }: CrashPoint, random: () => number): Tree {
  const { tree } = leftBy(recorded.trace, {
    moment,
    random,
    crashOf: hostsOf(recorded.trace, crash),
  });
  prepare(recorded, tree, crash);
  return tree;
}

/** By the directory of the host that a file is in; nothing moves from one to the other. */
function hostsOf({ base, events }: Trace, crash: CrashPoint['crash']): (inode: Inode) => Crash {
  const hosts = new Map<Inode, Crash>();
  for (const [path, inode] of pathsOf(base)) {
    const host = crash[path.startsWith('a') ? 'a' : 'b'];
    const isImage = path.startsWith('a/images') || path.startsWith('b/images');
    hosts.set(inode, host !== 'remount' ? host : isImage ? 'power' : 'kill');
  }
  for (const { operation } of events)
    if (operation.kind === 'make') hosts.set(operation.inode, hosts.get(operation.directory)!);
  return (inode) => hosts.get(inode)!;
}

export function prepare(recorded: Recorded, tree: Tree, crash: CrashPoint['crash']): void {
  playing.recording = null;
  playing.bootId = crash.b === 'power' ? randomUUID() : recorded.boot;
  playing.remounts = crash.b === 'remount' ? 1 : 0;
  putDown(tree, recorded.places.root);
}

/** The hosts whose images have what was synced, and nothing else for certain. */
export function lostPower({ crash }: CrashPoint): Set<HostName> {
  return new Set((['a', 'b'] as const).filter((host) => crash[host] !== 'kill'));
}

/** @returns what is wrong with the state that is put down, one line, or undefined. */
export async function faultOf(recorded: Recorded, point: CrashPoint): Promise<string | undefined> {
  try {
    return await look(recorded, point);
  } catch (error) {
    return (error as Error).message;
  }
}

async function look(recorded: Recorded, point: CrashPoint): Promise<string | undefined> {
  const { places, marks } = recorded;
  const promised = marks.at(point.moment);
  const source = await openSource(places, asItIs, () => 0).catch((error: unknown) => {
    throw new Error(`the source does not start: ${(error as Error).message}`);
  });
  try {
    return (
      sourceFault(source, promised, marks.uuidAt(point.moment)) ??
      (await sourceBytesFault(recorded, point, source)) ??
      (await destinationFault(recorded, point, source))
    );
  } finally {
    await closeSource(source);
  }
}

const sourceStates: Record<SourceState, readonly string[]> = {
  serving: ['serving'],
  fencing: ['serving', 'fenced'],
  fenced: ['fenced'],
  'giving back': ['serving', 'fenced'],
  retiring: ['fenced', 'retired'],
  retired: ['retired'],
};

function sourceFault(
  { running, served }: Source,
  promised: ReturnType<Marks['at']>,
  uuid: string | null,
): string | undefined {
  const { state, lease } = running.export.lender;
  const { record } = served.keeper;
  if (!sourceStates[promised.source].includes(state))
    return `the source comes back ${state}; it was ${promised.source} (rule 2)`;
  if (state === 'fenced' && promised.lease !== null && lease !== promised.lease)
    return `the source comes back fenced for lease ${lease}, not ${promised.lease}`;
  if (uuid !== null && record.uuid !== uuid) return `the source comes back as ${record.uuid}, not ${uuid}`;
  return undefined;
}

/**
 * The source's image has what its guest wrote, whoever reads it now, and nothing of the destination's (rule
 * 3).
 */
async function sourceBytesFault(
  { history }: Recorded,
  point: CrashPoint,
  { served }: Source,
): Promise<string | undefined> {
  const fault = history.fault(await readAll(served.disk, READ_LIMIT_MS), point.moment, lostPower(point), 'a');
  return fault === undefined ? undefined : `at the source ${fault}`;
}

async function destinationFault(
  recorded: Recorded,
  point: CrashPoint,
  source: Source,
): Promise<string | undefined> {
  const { places, marks, history } = recorded;
  const promised = marks.at(point.moment);
  const { stateDir, image } = placesOf(places).b;
  const record = await readRecord(stateDir);
  if (record === undefined) {
    if (!mayBeGone(promised.destination))
      return `the destination's record is gone; it was ${promised.destination}`;
    if (existsSync(image))
      return "the destination's image is there without a record: it is in the next move's way";
    if (promised.destination !== 'starting') return undefined;
  } else {
    if (promised.destination === 'absent') return `the destination is ${record.state}; it had been given up`;
    const { state, generation, origin } = record;
    const later = state === 'relocating' || state === 'serving';
    if (promised.destination === 'taken over' && (!later || generation !== 2))
      return `the destination comes back ${state} of generation ${generation}; it had taken over`;
    if (promised.lease !== null && origin !== null && origin.lease !== promised.lease)
      return `the destination comes back with lease ${origin.lease}, not ${promised.lease}`;
    const uuid = marks.uuidAt(point.moment);
    if (record.uuid !== uuid) return `the destination comes back as ${record.uuid}, not ${uuid}`;
    const { lender } = source.running.export;
    if (later && lender.state !== 'fenced' && lender.state !== 'retired')
      return `the destination comes back ${state}, the source ${lender.state}: both accept writes (rule 2)`;
    if (!record.complete && lender.state === 'retired')
      return 'the source has retired, and the destination misses blocks';
  }
  const destination = await openDestination(places, asItIs).catch((error: unknown) => {
    throw new Error(`the destination does not start: ${(error as Error).message}`);
  });
  try {
    const seen = await readAll(destination.served.disk, READ_LIMIT_MS);
    return (
      history.fault(seen, point.moment, lostPower(point)) ??
      selfCheckFault(destination, seen, await readAll(source.served.disk, READ_LIMIT_MS))
    );
  } finally {
    await destination.running.stop();
  }
}

/**
 * Where the two hosts differ the guest has written, and the written map knows (or knows that it does not).
 */
function selfCheckFault({ served }: Destination, here: Buffer, there: Buffer): string | undefined {
  const written = served.relocation.copy?.map.written;
  if (written === undefined) return undefined;
  for (let block = 0; block * BLOCK_SIZE < here.length; block++) {
    const [from, to] = [block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE];
    if (here.subarray(from, to).equals(there.subarray(from, to)) || written.isInDoubt(block)) continue;
    if (written.nextUnwritten(block, block + 1) === block)
      return `block ${block} was written, and a self-check would call that a fault`;
  }
  return undefined;
}

function mayBeGone(state: DestinationState): boolean {
  return state === 'absent' || state === 'starting' || state === 'abandoning';
}
