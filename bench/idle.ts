/**
 * Many exports that nobody uses: how long they take to start, what memory and CPU each costs, and whether
 * each serves.
 *
 *     npm run bench -- idle [--count N] [--seconds S] [--json FILE]
 *
 * PSS counts a page that several processes map in parts; what is private is not shared with anybody.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { exportStatus } from '../src/control/client.ts';
import { bundle, type RunningServer, target } from './servers.ts';

const execute = promisify(execFile);
/** Starts at a time: what a daemon on two cores would do. */
const AT_ONCE = 4;
const SIZE = 64 * 1024 * 1024;

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '100' },
    seconds: { type: 'string', default: '10' },
    json: { type: 'string', default: 'bench/results/idle.json' },
  },
});
const count = Number(values.count);
const seconds = Number(values.seconds);
const directory = await mkdtemp(join(tmpdir(), 'xnbd-bench-'));
const servers: RunningServer[] = [];
try {
  const began = performance.now();
  await Promise.all(Array.from({ length: AT_ONCE }, (_, first) => startEvery(first)));
  const startSeconds = (performance.now() - began) / 1000;
  const pids = await Promise.all(servers.map((server) => pidOf(server)));
  // What the start left behind is settled by then.
  await sleep(3000);
  const before = await ticks(pids);
  await sleep(seconds * 1000);
  const cpuPercent = ((await ticks(pids)) - before) / seconds / count;
  const memory = await Promise.all(pids.map((pid) => memoryOf(pid)));
  const pssMb = median(memory.map(({ pss }) => pss));
  const privateMb = median(memory.map(({ unshared }) => unshared));
  for (const server of servers) await serves(server);
  const result = { count, startSeconds, pssMb, privateMb, cpuPercent, served: servers.length };
  console.log(`${count} exports started in ${startSeconds.toFixed(1)} s, and each serves`);
  console.log(
    `memory of one: PSS ${pssMb.toFixed(1)} MB, of it private ${privateMb.toFixed(1)} MB (medians)`,
  );
  console.log(`CPU of one: ${cpuPercent.toFixed(3)} % (mean over ${seconds} s)`);
  await mkdir(dirname(values.json), { recursive: true });
  await writeFile(values.json, `${JSON.stringify(result, null, 2)}\n`);
} finally {
  await Promise.all(servers.map((server) => server.stop()));
  await rm(directory, { recursive: true });
}

async function startEvery(first: number): Promise<void> {
  for (let at = first; at < count; at += AT_ONCE) {
    const own = join(directory, String(at));
    await mkdir(own);
    const image = join(own, 'disk.img');
    await writeFile(image, '');
    await truncate(image, SIZE);
    servers.push(await target(bundle)(`export ${at}`, image, own));
  }
}

async function pidOf(server: RunningServer): Promise<number> {
  return (await exportStatus(join(dirname(server.image), 'nbd.sock.ctl'))).pid;
}

/** CPU time of all, in clock ticks (1/100 s). */
async function ticks(pids: number[]): Promise<number> {
  let sum = 0;
  for (const pid of pids) {
    const line = await readFile(`/proc/${pid}/stat`, 'utf8');
    const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
    sum += Number(fields[11]) + Number(fields[12]);
  }
  return sum;
}

/** MB. */
async function memoryOf(pid: number): Promise<{ pss: number; unshared: number }> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
  const field = (name: string) => Number(new RegExp(`^${name}: *(\\d+) kB`, 'm').exec(text)![1]) / 1000;
  return { pss: field('Pss'), unshared: field('Private_Clean') + field('Private_Dirty') };
}

/** Writes and reads a block. @throws when the export does not serve */
async function serves(server: RunningServer): Promise<void> {
  await execute('qemu-io', [
    '-f',
    'raw',
    '-c',
    'write -P 77 4096 4096',
    '-c',
    'read -P 77 4096 4096',
    server.uri,
  ]);
}

function median(figures: number[]): number {
  return figures.toSorted((a, b) => a - b)[Math.floor(figures.length / 2)]!;
}
