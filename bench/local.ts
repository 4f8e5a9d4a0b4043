/**
 * Throughput on this machine: xnbd-export (a target, and a proxy that has fetched everything) beside nbdkit,
 * qemu-nbd and nbd-server.
 *
 *     npm run bench -- local [--rounds N] [--seconds S] [--rows WORD,...] \
 *         [--servers NAME,...] [--against FILE,...] [--json FILE]
 *
 * All servers run at once, on the same file, and are measured in turn, row by row and round by round: what
 * else the machine does meanwhile hits all alike. A figure is the median of the rounds; what counts are the
 * ratios.
 *
 * --rows chooses rows that contain one of the words (`4K`, `cold`, `copy`); --against measures other builds
 * of xnbd-export beside this one.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { dropFromCache, emptyImage, makeImage } from './images.ts';
import { bundle, completedProxy, peers, type RunningServer, target, targetOnTcp } from './servers.ts';
import { connectionRows, copyIn, copyOut, fio, type Row, rows } from './workloads.ts';

const MIB = 1024 * 1024;
const HOT_BYTES = 512 * MIB;
const COLD_BYTES = 2048 * MIB;
const COPY_BYTES = 4096 * MIB;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    rows: { type: 'string' },
    servers: { type: 'string' },
    against: { type: 'string' },
    json: { type: 'string', default: 'bench/results/local.json' },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const wantedRows = values.rows?.split(',');
const wantedServers = values.servers?.split(',');
const others = values.against?.split(',').map((path) => resolve(path)) ?? [];

const starters = {
  target: target(bundle),
  proxy: completedProxy,
  'target-tcp': targetOnTcp,
  ...Object.fromEntries(others.map((path, at) => [`other-${at + 1}`, target(path)])),
  ...peers,
};
const chosen = Object.entries(starters).filter(([name]) => {
  if (wantedServers !== undefined) return wantedServers.includes(name);
  if (!(name in peers) || spawnSync('sh', ['-c', `command -v ${name}`]).status === 0) return true;
  console.error(`${name} is not installed: left out`);
  return false;
});

/** MB/s of each round. */
interface Result {
  row: string;
  samples: Record<string, number[]>;
}

/** One figure of one server. */
type Measure = (server: RunningServer) => Promise<number>;

const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const directories: string[] = [];
const running: RunningServer[] = [];
const results: Result[] = [];
/** Nothing more is to be started. */
let ending = false;
// Whoever ends us ends the servers too, and their files.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    ending = true;
    void cleanUp().finally(() => process.exit(1));
  });
}
try {
  await hotRows();
  await copies();
  await coldRows();
  report();
} finally {
  await cleanUp();
}

async function cleanUp(): Promise<void> {
  await stopAll();
  for (const directory of directories) await rm(directory, { recursive: true, force: true });
}

async function hotRows(): Promise<void> {
  const chosenRows = [...rows, ...connectionRows].filter(({ name }) => wanted(name));
  if (chosenRows.length === 0) return;
  const { image } = await startAll(memory, HOT_BYTES);
  await measure(chosenRows.map((row) => [row.name, withFio(row)]));
  await stopAll();
  await rm(dirname(image), { recursive: true });
}

/** The image lies on a disk, and before each figure nothing of it is in the page cache. */
async function coldRows(): Promise<void> {
  const chosenRows = rows.filter(({ name }) => wanted(`cold ${name}`));
  if (chosenRows.length === 0) return;
  await startAll(join(import.meta.dirname, 'results'), COLD_BYTES);
  const cold =
    (row: Row): Measure =>
    async (server) => {
      await dropFromCache(server.image);
      return fio(server.uri, row, seconds);
    };
  await measure(chosenRows.map((row) => [`cold ${row.name}`, cold(row)]));
  await stopAll();
}

/** nbdcopy of a half-empty image into an empty disk, and out again. */
async function copies(): Promise<void> {
  if (!wanted('copy in') && !wanted('copy out')) return;
  const { image } = await startAll(memory, COPY_BYTES, true);
  const source = join(dirname(image), 'source.img');
  await makeImage(source, COPY_BYTES, true);
  await measure([
    [
      'copy in',
      async (server) => {
        await emptyImage(server.image, COPY_BYTES);
        return copyIn(source, COPY_BYTES, server.uri);
      },
    ],
    ['copy out', (server) => copyOut(server.uri, COPY_BYTES, join(dirname(image), 'out.img'))],
  ]);
  await stopAll();
  await rm(dirname(image), { recursive: true });
}

function withFio(row: Row): Measure {
  return (server) => fio(server.uri, row, seconds);
}

function wanted(name: string): boolean {
  return wantedRows === undefined || wantedRows.some((word) => name.includes(word));
}

async function startAll(parent: string, sizeBytes: number, empty = false): Promise<{ image: string }> {
  if (ending) throw new Error('ended by a signal');
  await mkdir(parent, { recursive: true });
  const directory = await mkdtemp(join(parent, 'xnbd-bench-'));
  directories.push(directory);
  const image = join(directory, 'disk.img');
  await makeImage(image, sizeBytes);
  if (empty) await emptyImage(image, sizeBytes);
  for (const [name, start] of chosen) {
    const own = join(directory, name);
    await mkdir(own);
    // An image has one server: each serves a copy.
    const copy = join(own, 'disk.img');
    await copyFile(image, copy);
    running.push(await start(name, copy, own));
  }
  return { image };
}

async function stopAll(): Promise<void> {
  for (const server of running.splice(0)) await server.stop();
}

async function measure(measures: [string, Measure][]): Promise<void> {
  for (const [row, one] of measures) {
    const samples: Result['samples'] = {};
    for (const { name } of running) samples[name] = [];
    for (let round = 0; round < rounds; round++) {
      // Nobody always follows the same one, or always comes first.
      const first = round % running.length;
      const order = [...running.slice(first), ...running.slice(0, first)];
      for (const server of order) samples[server.name]!.push(await one(server));
    }
    results.push({ row, samples });
    process.stderr.write(`${row}: ${summary(samples)}\n`);
  }
}

function summary(samples: Result['samples']): string {
  return Object.entries(samples)
    .map(([name, figures]) => `${name} ${median(figures).toFixed(0)}`)
    .join(', ');
}

function median(figures: number[]): number {
  const sorted = figures.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function report(): void {
  const names = chosen.map(([name]) => name);
  const ours = names.filter((name) => !(name in peers));
  const theirs = names.filter((name) => name in peers);
  const columns = (cells: string[]) => cells.map((cell) => cell.padStart(11)).join('');
  console.log(`\nMB/s, median of ${rounds} rounds of ${seconds} s\n\n${' '.repeat(20)}${columns(names)}`);
  for (const { row, samples } of results) {
    console.log(row.padEnd(20) + columns(names.map((name) => median(samples[name]!).toFixed(1))));
  }
  for (const own of ours) {
    const compared = [...theirs, ...ours.filter((name) => name !== own)];
    if (compared.length === 0) continue;
    console.log(`\n${`${own} is x times`.padEnd(20)}${columns(compared)}`);
    for (const { row, samples } of results) {
      const ratios = compared.map((name) => (median(samples[own]!) / median(samples[name]!)).toFixed(2));
      console.log(row.padEnd(20) + columns(ratios));
    }
  }
  void save();
}

async function save(): Promise<void> {
  const machine = { processor: cpus()[0]?.model, processors: availableParallelism(), node: process.version };
  await mkdir(dirname(values.json), { recursive: true });
  await writeFile(values.json, `${JSON.stringify({ machine, rounds, seconds, results }, null, 2)}\n`);
}
