/**
 * Lives, crashes, and what is found: records random lives of a disk (life.ts), builds states that a crash at
 * a random moment could leave (lost-power.ts), and looks at each (check-state.ts). Some of them are lived on
 * from, so that later crashes find what an earlier one left.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configureLog } from '../../src/log/log.ts';
import { diskContent } from '../lab/model/content.ts';
import { Random } from '../lab/model/random.ts';
import {
  type CrashPoint,
  faultOf,
  type HostCrash,
  lostPower,
  playCrash,
  prepare,
  type Recorded,
} from './check-state.ts';
import { daemonFault } from './daemon-files.ts';
import { leftBy } from './files/lost-power.ts';
import { newInode, playing } from './files/recorder.ts';
import { recordWhile } from './files/recording.ts';
import { Clock, describeEvent, type Inode, ROOT, type Tree } from './files/trace.ts';
import { pathsOf, putDown } from './files/tree.ts';
import { History, type HostName } from './lives/history.ts';
import { asItIs, type Places } from './lives/hosts.ts';
import { live } from './lives/life.ts';
import { type PlantedFault, plants } from './lives/planted-faults.ts';
import { Marks } from './lives/promises.ts';

export interface CrashReport {
  seed: number;
  lives: number;
  states: number;
  /** Of those, how many after a loss of power. */
  powerStates: number;
  seconds: number;
  /** The first one, with the story that leads there; null when there is none. */
  fault: { line: string; story: string } | null;
}

export interface CrashCheckOptions {
  seed: number;
  /** Ends after so many states, or so many minutes, whichever is first. */
  states: number;
  minutes: number;
  planted: PlantedFault | null;
}

const STATES_A_LIFE = 80;
const DAEMON_STATES_A_LIFE = 20;
const BRANCHES = 2;

/** Ends with the first fault. */
export async function checkCrashes(options: CrashCheckOptions): Promise<CrashReport> {
  const began = performance.now();
  const report: CrashReport = {
    seed: options.seed,
    lives: 0,
    states: 0,
    powerStates: 0,
    seconds: 0,
    fault: null,
  };
  const over = () =>
    report.fault !== null ||
    report.states >= options.states ||
    performance.now() - began > options.minutes * 60_000;
  const directory = mkdtempSync(join(spaceInMemory(), 'xnbd-crash-'));
  const lines: string[] = [];
  configureLog({ sink: (level, message) => void lines.push(`${level}: ${message}`) });
  try {
    for (let seed = options.seed; !over(); seed++) {
      lines.length = 0;
      const places = { root: join(directory, 'files'), run: directory };
      await daemonFiles(places, seed, report);
      if (!over()) await oneDisk(places, seed, options.planted, report, over, lines);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  report.seconds = (performance.now() - began) / 1000;
  return report;
}

/** tmpfs where there is one: thousands of states are put down and removed. */
function spaceInMemory(): string {
  return existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
}

async function daemonFiles({ root }: Places, seed: number, report: CrashReport): Promise<void> {
  const fault = await daemonFault(root, new Random(seed).fraction, DAEMON_STATES_A_LIFE);
  report.states += DAEMON_STATES_A_LIFE;
  if (fault !== undefined) report.fault = { ...fault, story: `seed ${seed}, ${fault.story}` };
}

async function oneDisk(
  places: Places,
  seed: number,
  planted: PlantedFault | null,
  report: CrashReport,
  over: () => boolean,
  lines: string[],
): Promise<void> {
  const random = new Random(seed).fraction;
  const clock = new Clock();
  const content = diskContent(seed, (40 + Math.floor(random() * 80)) * 4096 + (random() < 0.3 ? 1536 : 0));
  const recorded: Recorded = {
    places,
    trace: { base: newTree(content, random), events: [] },
    history: new History(clock, content),
    marks: new Marks(clock),
    boot: 'a0000000-0000-4000-8000-000000000000',
  };
  putDown(recorded.trace.base, places.root);
  for (let branch = 0; branch <= BRANCHES && !over(); branch++) {
    const from = clock.now;
    await record(recorded, clock, random, planted);
    report.lives++;
    for (let states = 0; states < STATES_A_LIFE && !over(); states++) {
      const moment = from + 1 + Math.floor(random() * (clock.now - from + 1));
      const point: CrashPoint = { moment, crash: anyCrash(random) };
      playCrash(recorded, point, random);
      const line = await faultOf(recorded, point);
      report.states++;
      if (lostPower(point).size > 0) report.powerStates++;
      if (line !== undefined) {
        report.fault = { line, story: story(recorded, seed, point, lines) };
        return;
      }
    }
    // What the kernel has forgotten of it is another thing in each of its states.
    if (recorded.trace.events.some(({ operation }) => operation.kind === 'failed sync')) return;
    crashAndLiveOn(recorded, from, clock.now, random);
  }
}

/** The source's disk is there, durably; whether directories for the exports are is left to chance. */
function newTree(content: Buffer, random: () => number): Tree {
  const tree: Tree = new Map();
  const directory = (entries: Record<string, Inode>, inode = newInode()): Inode => {
    tree.set(inode, { kind: 'directory', entries: new Map(Object.entries(entries)) });
    return inode;
  };
  const disk = newInode();
  tree.set(disk, { kind: 'file', bytes: content });
  const some = (): Record<string, Inode> => (random() < 0.5 ? { exports: directory({}) } : {});
  const a = directory({ images: directory({ 'disk.img': disk }), ...some() });
  const b = directory({ images: directory({}), ...some() });
  directory({ a, b }, ROOT);
  return tree;
}

/** One life, from what is put down. */
async function record(
  recorded: Recorded,
  clock: Clock,
  random: () => number,
  planted: PlantedFault | null,
): Promise<void> {
  const { places, trace, history, marks, boot } = recorded;
  const plant = planted === null ? null : plants[planted];
  await recordWhile({ root: places.root, clock, trace, random, boot }, async () => {
    plant?.begin?.();
    try {
      await live({ places, history, marks, random, plant: plant?.served ?? asItIs });
    } finally {
      plant?.end?.();
    }
  });
}

function anyCrash(random: () => number): Record<HostName, HostCrash> {
  const chance = random();
  if (chance < 0.15) return { a: 'kill', b: 'kill' };
  if (chance < 0.25) return { a: 'kill', b: 'remount' };
  if (chance < 0.65) return { a: 'kill', b: 'power' };
  return { a: 'power', b: chance < 0.8 ? 'kill' : 'power' };
}

/**
 * Both hosts crash at some moment at which all is settled, and what is left is where the next life begins.
 */
function crashAndLiveOn(recorded: Recorded, from: number, to: number, random: () => number): void {
  const { trace, history, marks } = recorded;
  let moment = to;
  // Whoever is killed right after a rename has not synced it.
  const renames = trace.events.filter(({ operation, ended }) => operation.kind === 'move' && ended > from);
  for (let tries = 0; tries < 50; tries++) {
    const rename = random() < 0.5 ? renames[Math.floor(random() * renames.length)] : undefined;
    const tried = rename === undefined ? from + 1 + Math.floor(random() * (to - from + 1)) : rename.ended + 1;
    if (!marks.settledAt(tried)) continue;
    moment = tried;
    break;
  }
  const crash = random() < 0.5 ? 'kill' : 'power';
  const { tree, done } = leftBy(trace, { moment, random, crashOf: () => crash, whole: true });
  prepare(recorded, tree, { a: crash, b: crash });
  recorded.boot = playing.bootId;
  if (crash === 'power') {
    trace.base = tree;
    trace.events = [];
  } else {
    trace.events = trace.events.filter((event) => event.ended < moment || done.has(event));
    for (const event of trace.events) event.ended = Math.min(event.ended, moment);
  }
  history.crashedAt(moment, lostPower({ moment, crash: { a: crash, b: crash } }));
  marks.crashedAt(moment);
}

const SHOWN = 150;

/** What led to a fault: file operations and requests before the crash, and the log. */
function story(
  { trace, history, marks }: Recorded,
  seed: number,
  point: CrashPoint,
  lines: string[],
): string {
  const names = new Map<Inode, string>([...pathsOf(trace.base)].map(([path, inode]) => [inode, path]));
  const told: { at: number; line: string }[] = [];
  for (const event of trace.events) {
    const { operation } = event;
    if (operation.kind === 'make')
      names.set(operation.inode, `${names.get(operation.directory)}/${operation.name}`);
    if (event.began < point.moment) told.push({ at: event.began, line: describeEvent(event, names) });
  }
  for (const { what, from, to, asked, answered, durable } of history.changes)
    if (asked < point.moment)
      told.push({ at: asked, line: `${asked}..${answered}, durable ${durable}: ${what} [${from}, ${to})` });
  told.sort((one, other) => one.at - other.at);
  const { source, destination } = marks.at(point.moment);
  return [
    `seed ${seed}, crash at ${point.moment}: a ${point.crash.a}, b ${point.crash.b}; the source was ${source}, the destination ${destination}`,
    ...told.slice(-SHOWN).map(({ line }) => line),
    'log:',
    ...lines.slice(-20),
  ].join('\n');
}
