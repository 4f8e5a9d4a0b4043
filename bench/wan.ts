/**
 * A relocation over a wide area network of packets: what the guest feels from the first second after the
 * takeover, and how long the copy takes, through the gateway with TLS.
 *
 *     npm run bench -- wan [--rtt MS,...] [--rate MBIT,...] [--seconds S] [--disks N,...] [--loss PERCENT]
 *                          [--congestion cubic|bbr] [--foreign] [--step] [--others] [--against DIR]
 *                          [--json FILE]
 *
 * Each row is one line, new; with --against the programs in another directory (as dist/bin) have a row of
 * their own beside it. `complete` is how many times as long the copy took as the line needs for the payload
 * alone. What a figure should be stands behind it, and `!` where it is not.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { whyNoPackets } from '../test/lab/net/packets/packet-wan.ts';
import { makeCertificates } from './wan/hosts.ts';
import { copyByOthers } from './wan/others.ts';
import { bounds, type Row, rowOf } from './wan/row.ts';
import { type Case, relocate } from './wan/run.ts';

const { values } = parseArgs({
  options: {
    rtt: { type: 'string', default: '10,50,100,200' },
    rate: { type: 'string', default: '20,100,1000' },
    disks: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '30' },
    loss: { type: 'string', default: '0' },
    congestion: { type: 'string' },
    foreign: { type: 'boolean', default: false },
    step: { type: 'boolean', default: false },
    others: { type: 'boolean', default: false },
    against: { type: 'string' },
    json: { type: 'string', default: 'bench/results/wan.json' },
  },
});
const numbers = (text: string): number[] => text.split(',').map(Number);

const lacking = whyNoPackets();
if (lacking !== null) {
  console.log(`skipped: ${lacking}`);
} else {
  const directory = await mkdtemp(join(tmpdir(), 'xnbd-wan-'));
  try {
    await measure(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function measure(directory: string): Promise<void> {
  const certificates = await makeCertificates(directory);
  const programs = { here: join(import.meta.dirname, '../dist/bin') };
  const builds = Object.entries(
    values.against === undefined ? programs : { against: resolve(values.against), ...programs },
  );
  const rows: Row[] = [];
  printHead();
  for (const wanted of cases()) {
    for (const [build, path] of builds) {
      const place = { programs: path, directory: join(directory, 'run'), certificates };
      const row = rowOf(build, wanted, await relocate(wanted, place));
      rows.push(row);
      printRow(row);
    }
    if (!values.others) continue;
    for (const [name, seconds] of await copyByOthers(wanted, join(directory, 'others')))
      console.log(`${label(name, wanted)}${' '.repeat(66)}${(seconds / wanted.seconds).toFixed(2)}`);
  }
  await mkdir(dirname(values.json), { recursive: true });
  await writeFile(values.json, `${JSON.stringify(rows, null, 2)}\n`);
}

function cases(): Case[] {
  const { foreign, step, congestion } = values;
  const [seconds, loss] = [Number(values.seconds), Number(values.loss)];
  return numbers(values.rtt).flatMap((rttMs) =>
    numbers(values.rate).flatMap((rateMbit) =>
      numbers(values.disks).map((disks) => ({
        ...{ rttMs, rateMbit, disks, seconds },
        ...{ loss, foreign, step, congestion },
      })),
    ),
  );
}

function label(who: string, { rttMs, rateMbit, disks }: Case): string {
  return `${who.padEnd(9)}${String(rttMs).padStart(4)} ms ${String(rateMbit).padStart(5)} Mbit/s ${String(disks).padStart(3)} `;
}

function printHead(): void {
  console.log(
    `\n${'build'.padEnd(9)}    line          disks   cold p50 (bound)     p99 (bound)    max   cached  complete  slowest  dropped`,
  );
}

function printRow(row: Row): void {
  const { p50, p99 } = bounds(row.case);
  const judged = (value: number, bound: number, width: number): string =>
    `${value.toFixed(1).padStart(width)} (${bound.toFixed(0).padStart(4)})${value > bound ? '!' : ' '}`;
  const parts = [
    label(row.build, row.case),
    judged(row.coldP50, p50, 8),
    judged(row.coldP99, p99, 9),
    row.coldMax.toFixed(0).padStart(7),
    row.cachedP50.toFixed(2).padStart(8),
    `${row.complete.toFixed(2).padStart(9)}${row.complete > 1.1 ? '!' : ' '}`,
    row.slowest.toFixed(2).padStart(7),
    String(row.dropped).padStart(8),
  ];
  if (row.foreignShare !== null) parts.push(`  foreign ${row.foreignShare.toFixed(2)} of the line`);
  console.log(parts.join(' '));
  for (const { from, rateMbit, p99: worst, bound } of row.afterSteps)
    console.log(
      `          from ${from.toFixed(0)} s, ${rateMbit} Mbit/s: p99 ${worst.toFixed(0)} ms (${bound.toFixed(0)})`,
    );
}
