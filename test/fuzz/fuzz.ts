/**
 * npm run fuzz -- --minutes N [--seed S]: peers that break the rules, by the thousand, against the server's
 * and the client's side of NBD.
 *
 * The cases run in a thread of their own, so that one that never ends is seen from here. A finding is written
 * to fuzz/corpus/, where test/fuzz replays it from then on, and named with the number that makes it again.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { formatCase, makeCase, runCase } from './case.ts';

/** Two hundred cases take a fraction of a second, on a machine that has nothing else to do. */
const HANG_MS = 60_000;
const REPORT_EVERY = 20_000;
/** What may be more in use, after garbage is gone, than after the first report, bytes. */
const GROWTH = 48 * 1024 * 1024;

interface Start {
  seed: number;
  until: number;
}

if (isMainThread) await watch();
else await work(workerData as Start);

async function watch(): Promise<void> {
  const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } });
  const minutes = Number(values.minutes ?? 1);
  const seed = Number(values.seed ?? Date.now() % 2 ** 32);
  if (!(minutes > 0) || !Number.isInteger(seed))
    throw new Error('use: npm run fuzz -- --minutes N [--seed S]');
  console.log(`fuzzing for ${minutes} minutes from seed ${seed}`);
  const worker = new Worker(new URL(import.meta.url), {
    workerData: { seed, until: Date.now() + minutes * 60_000 } satisfies Start,
  });
  let current = seed;
  let seen = -1;
  const watchdog = setInterval(() => {
    if (current === seen) {
      finding(current, 'it does not end');
      process.exit(1);
    }
    seen = current;
  }, HANG_MS);
  worker.on('message', (message: number | string) => {
    if (typeof message === 'number') current = message;
    else console.log(message);
  });
  worker.on('error', (error: Error) => {
    finding(current, String(error.stack));
    process.exit(1);
  });
  const code = await new Promise<number>((resolve) => worker.on('exit', resolve));
  clearInterval(watchdog);
  process.exitCode = code;
}

async function work({ seed, until }: Start): Promise<void> {
  const began = Date.now();
  let found = 0;
  let usedAtFirst: number | null = null;
  let count = 0;
  for (; Date.now() < until; count++) {
    const number = (seed + count) >>> 0;
    if (count % 200 === 0) {
      parentPort?.postMessage(number);
      await new Promise(setImmediate);
    }
    try {
      await runCase(makeCase(number));
    } catch (error) {
      finding(number, String((error as Error).stack));
      found += 1;
      if (found >= 20) break;
    }
    if (count % REPORT_EVERY !== REPORT_EVERY - 1) continue;
    const used = await inUse();
    const rate = Math.round((count * 1000) / (Date.now() - began));
    parentPort?.postMessage(`${count + 1} cases, ${rate} a second, ${Math.round(used / 2 ** 20)} MiB in use`);
    usedAtFirst ??= used;
    if (used - usedAtFirst <= GROWTH) continue;
    console.log(`FOUND: memory grew from ${usedAtFirst} to ${used} bytes within ${count} cases`);
    found += 1;
    break;
  }
  console.log(`${count} cases from seed ${seed}: ${found === 0 ? 'nothing found' : `${found} findings`}`);
  process.exitCode = found === 0 ? 0 : 1;
}

/**
 * Bytes, garbage not counted: buffers are given back a turn after nobody has them any more, so a few turns
 * are given to that.
 */
async function inUse(): Promise<number> {
  for (let turn = 0; turn < 5; turn++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

function finding(number: number, what: string): void {
  const path = join(import.meta.dirname, 'corpus', `seed-${number}.txt`);
  writeFileSync(path, formatCase(makeCase(number)));
  console.log(`FOUND with seed ${number}: ${what}\n  kept as ${path}`);
}
