/**
 * What a guest feels while the background copy runs: cached and cold 4 KiB reads, over an emulated line of
 * 100 Mbit/s and 50 ms.
 *
 *     node bench/during-copy.ts [--rtt MS] [--rate MBIT] [--size MIB] [--json FILE]
 *
 * Side by side, in one run and each over its own line of the same kind: our proxy, and nbdkit as the nearest
 * thing to be had from a distribution (its nbd plugin, cached on read, with the scan filter as background
 * copy). The C xNBD 0.4.1 on such a line: cached 326 ms, cold 337 ms.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { OriginConnection } from '../src/client/connection.ts';
import { exportStatus } from '../src/control/client.ts';
import { startWan, type Wan } from '../test/lab/net/wan.ts';

const { values } = parseArgs({
  options: {
    rtt: { type: 'string', default: '50' },
    rate: { type: 'string', default: '100' },
    size: { type: 'string', default: '192' },
    json: { type: 'string', default: 'bench/results/during-copy.json' },
  },
});
const rttMs = Number(values.rtt);
const rateMbit = Number(values.rate);
const sizeBytes = Number(values.size) * 1024 * 1024;
const MIB = 1024 * 1024;
/** Reads of each kind; cold ones are spread over the end of the disk, where the copy comes last. */
const SAMPLES = 60;

interface Figures {
  name: string;
  cachedP50: number;
  cachedP99: number;
  coldP50: number;
  coldP99: number;
  mbitPerSecond: number;
}

const children: ChildProcess[] = [];
const wans: Wan[] = [];
const top = join(import.meta.dirname, '..');
const directory = await mkdtemp(join(tmpdir(), 'xnbd-bench-'));
try {
  const image = join(directory, 'origin.img');
  await fill(image);
  const ours = await measureOurs(image);
  const nbdkit = await measureNbdkit(image);
  print([ours, ...(nbdkit === null ? [] : [nbdkit])]);
} finally {
  for (const child of children) {
    child.kill();
    if (child.exitCode === null) await once(child, 'exit');
  }
  for (const wan of wans) await wan.stop();
  await rm(directory, { recursive: true });
}

async function measureOurs(image: string): Promise<Figures> {
  const origin = join(directory, 'origin.sock');
  await run(
    [
      process.execPath,
      `${top}/src/bin/xnbd-export.ts`,
      'target',
      'disk',
      '--image',
      image,
      '--socket',
      origin,
    ],
    origin,
  );
  const wan = await startWan({ to: origin, rttMs, rateMbit });
  wans.push(wan);
  const socket = join(directory, 'proxy.sock');
  const proxy = [
    ...[
      process.execPath,
      `${top}/src/bin/xnbd-export.ts`,
      'proxy',
      'disk',
      '--image',
      join(directory, 'copy.img'),
    ],
    ...['--origin', `nbd://${wan.address}/disk`, '--socket', socket, '--takeover', 'now'],
  ];
  await run(proxy, socket);
  const before = await exportStatus(`${socket}.ctl`);
  const started = performance.now();
  const figures = await sample(socket, 'disk');
  const after = await exportStatus(`${socket}.ctl`);
  const bytes = after.backgroundBytes + after.onDemandBytes - before.backgroundBytes - before.onDemandBytes;
  const seconds = (performance.now() - started) / 1000;
  if (after.state !== 'relocating')
    throw new Error('the copy ended before the measurement: use a larger --size');
  return { name: 'xnbd-export proxy', ...figures, mbitPerSecond: (bytes * 8) / seconds / 1e6 };
}

async function measureNbdkit(image: string): Promise<Figures | null> {
  if (!existsSync('/usr/sbin/nbdkit') && !existsSync('/usr/bin/nbdkit')) return null;
  const origin = join(directory, 'nbdkit-origin.sock');
  await run(['nbdkit', '-f', '-r', '-U', origin, 'file', image], origin);
  const wan = await startWan({ to: origin, rttMs, rateMbit });
  wans.push(wan);
  const socket = join(directory, 'nbdkit-proxy.sock');
  const filters = ['--filter=cache', '--filter=scan'].slice(
    existsFilter('scan') ? 0 : 0,
    existsFilter('scan') ? 2 : 1,
  );
  const uri = `nbd://${wan.address}`;
  await run(['nbdkit', '-f', '-U', socket, ...filters, 'nbd', `uri=${uri}`, 'cache-on-read=true'], socket);
  const before = await wan.stats();
  const started = performance.now();
  const figures = await sample(socket, '');
  const after = await wan.stats();
  const seconds = (performance.now() - started) / 1000;
  const name = existsFilter('scan') ? 'nbdkit cache+scan' : 'nbdkit cache (no background copy)';
  return { name, ...figures, mbitPerSecond: ((after.downBytes - before.downBytes) * 8) / seconds / 1e6 };
}

function existsFilter(name: string): boolean {
  return existsSync(`/usr/lib/x86_64-linux-gnu/nbdkit/filters/nbdkit-${name}-filter.so`);
}

async function sample(socket: string, name: string): Promise<Omit<Figures, 'name' | 'mbitPerSecond'>> {
  const client = await OriginConnection.connect({ address: { kind: 'unix', path: socket, name } });
  const read = async (offset: number): Promise<number> => {
    const began = performance.now();
    await new Promise<void>((resolve, reject) => {
      const complete = (errno: number) => (errno === 0 ? resolve() : reject(new Error(`error ${errno}`)));
      client.read(Buffer.alloc(4096), offset, { complete });
    });
    return performance.now() - began;
  };
  // Past the start of the copy, when the line is full.
  await new Promise((resolve) => setTimeout(resolve, 2000));
  await read(0);
  const cached: number[] = [];
  const cold: number[] = [];
  for (let at = 0; at < SAMPLES; at++) {
    cold.push(await read(sizeBytes - MIB - at * 128 * 1024));
    for (let times = 0; times < 10; times++) cached.push(await read(0));
  }
  client.disconnect();
  return {
    cachedP50: percentile(cached, 50),
    cachedP99: percentile(cached, 99),
    coldP50: percentile(cold, 50),
    coldP99: percentile(cold, 99),
  };
}

function percentile(samples: number[], percent: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))]!;
}

async function fill(path: string): Promise<void> {
  const file = await open(path, 'w');
  const chunk = Buffer.alloc(MIB);
  for (let at = 0; at < sizeBytes; at += MIB) await file.write(randomFillSync(chunk), 0, MIB, at);
  await file.close();
}

async function run([program, ...args]: string[], socket: string): Promise<void> {
  const child = spawn(program!, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  children.push(child);
  const exited = once(child, 'exit').then(() => {
    throw new Error(`${program} ${args.join(' ')} ended`);
  });
  exited.catch(() => undefined);
  while (!existsSync(socket)) await Promise.race([exited, new Promise((resolve) => setTimeout(resolve, 20))]);
}

function print(rows: Figures[]): void {
  const title = `4 KiB reads during the background copy, ${rateMbit} Mbit/s, ${rttMs} ms round trip`;
  console.log(`\n${title}\n`);
  console.log(`${''.padEnd(36)}cached p50   p99    cold p50      p99   x RTT   copy`);
  for (const row of rows) {
    const figures = [
      `${row.cachedP50.toFixed(2).padStart(7)} ms`,
      row.cachedP99.toFixed(2).padStart(7),
      `${row.coldP50.toFixed(1).padStart(8)} ms`,
      row.coldP99.toFixed(1).padStart(8),
      (row.coldP50 / rttMs).toFixed(2).padStart(6),
      `${row.mbitPerSecond.toFixed(0).padStart(5)} Mbit/s`,
    ];
    console.log(row.name.padEnd(34) + figures.join(' '));
  }
  void mkdir(dirname(values.json), { recursive: true }).then(() =>
    writeFile(values.json, `${JSON.stringify({ title, rttMs, rateMbit, sizeBytes, rows }, null, 2)}\n`),
  );
}
