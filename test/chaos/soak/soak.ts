/**
 * npm run soak -- --minutes N [--moves N] [--size MIB] [--json FILE]: a guest of QEMU that writes all the
 * while moves A -> B -> A -> B ... with `virsh migrate`, its disks after it, on two libvirt hosts (test/lab).
 *
 * After each move, once every block has arrived and the origin is gone: the guest has found nothing wrong,
 * every byte of its disks is compared with what it says that it wrote, and what our programs hold on both
 * hosts is counted (census.ts). It ends with an error when a byte was wrong, or when something grew.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Guest } from '../../lab/libvirt/guest.ts';
import { labUnavailable } from '../../lab/libvirt/lab.ts';
import {
  announced,
  arrived,
  createSites,
  guestWithDisks,
  type Site,
  signalsOf,
  wrongBytes,
} from '../../lab/sites/sites.ts';
import { waitFor } from '../../lab/wait-for.ts';
import { takeCensus } from './census.ts';
import { growing, header, judgeMoves, type Move, moveLines, verdictTable } from './report.ts';

/**
 * Mbit/s, in turn: moves that are over at once, and moves in which the guest works for a while at a distance
 * from its disks.
 */
const RATES = [undefined, 200, 60, undefined, 100, 400];
const ARRIVAL_LIMIT_MS = 300_000;
/** For what ends on its own a moment later: connections, sockets of processes that have ended. */
const SETTLE_MS = 2000;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    moves: { type: 'string', default: '0' },
    size: { type: 'string', default: '64' },
    json: { type: 'string', default: 'bench/results/soak.json' },
  },
});
const minutes = Number(values.minutes);
/** At least so many, however long they take. */
const fewest = Number(values.moves);
const sizeMib = Number(values.size);
if (!(minutes > 0) || !Number.isInteger(fewest) || !(sizeMib >= 16)) {
  console.error('use: npm run soak -- --minutes N [--moves AT-LEAST] [--size MIB, from 16] [--json FILE]');
  process.exit(2);
}
const reason = await labUnavailable();
if (reason !== undefined) {
  console.error(`soak: ${reason}`);
  process.exit(2);
}
const sites = await createSites({ config: '[relocation]\nretired = delete\n' });
let ending: Promise<void> | undefined;
const end = (): Promise<void> => (ending ??= sites.destroy());
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void end().finally(() => process.exit(130)));
try {
  process.exitCode = await soak();
} catch (error) {
  console.error(`soak: ${(error as Error).stack}`);
  process.exitCode = 1;
} finally {
  await end();
}
process.exit();

/** @returns the exit code */
async function soak(): Promise<number> {
  const guest = await guestWithDisks(sites, 'soak', ['rewrite', 'write-only'], sizeMib);
  await guest.start(sites.a.host);
  console.log(
    `soak: two disks of ${sizeMib} MiB, at least ${minutes} minutes and ${fewest} moves\n\n${header()}`,
  );
  const moves: Move[] = [];
  const until = Date.now() + minutes * 60_000;
  let [here, there] = [sites.a, sites.b];
  while (moves.length < fewest || Date.now() < until) {
    const move = await moveOnce(guest, moves.length + 1, here, there);
    moves.push(move);
    console.log(moveLines(move));
    for (const error of move.errors) console.log(`  WRONG: ${error}`);
    if (move.errors.length > 0) break;
    [here, there] = [there, here];
  }
  await guest.powerOff();
  const judged = judgeMoves(moves);
  console.log(verdictTable(judged));
  const grown = [...growing(judged), ...newFiles(moves).map((path) => `a new file: ${path}`)];
  const wrong = moves.flatMap(({ errors }) => errors);
  const good = wrong.length === 0 && grown.length === 0;
  const { writes, reads } = moves.at(-1)!;
  const summary = { moves: moves.length, minutes, writes, reads, wrong, grown, good };
  await mkdir(dirname(values.json), { recursive: true });
  await writeFile(values.json, `${JSON.stringify({ ...summary, judged, each: moves }, null, 1)}\n`);
  console.log(
    `${good ? 'GOOD' : 'BAD'}: ${moves.length} moves, ${writes} writes and ${reads} verified reads of the guest, ${wrong.length} errors; ` +
      (grown.length === 0 ? 'nothing grew' : `growing: ${grown.join('; ')}`),
  );
  console.log(JSON.stringify(summary));
  return good ? 0 : 1;
}

async function moveOnce(guest: Guest, number: number, from: Site, to: Site): Promise<Move> {
  const rate = RATES[number % RATES.length];
  const told = signalsOf(sites, to, guest).length;
  await announced(from, guest);
  await guest.progress();
  await sites.lab.setRate(rate);
  const flags = ['--live', '--persistent', '--undefinesource', ...(number % 3 === 0 ? ['--p2p'] : [])];
  const begun = performance.now();
  await guest.migrate(from.host, to.host, ...flags);
  const atDestination = performance.now();
  await guest.progress();
  await arrived(to, guest, ARRIVAL_LIMIT_MS);
  const complete = performance.now();
  await sites.lab.setRate(undefined);
  const errors = await atRest(guest, from, to, told);
  const counts = [...guest.counts.values()];
  return {
    number,
    from: from.host.name,
    to: to.host.name,
    rate,
    migrated: (atDestination - begun) / 1000,
    arrived: (complete - atDestination) / 1000,
    writes: counts.reduce((sum, { writes }) => sum + writes, 0),
    reads: counts.reduce((sum, { reads }) => sum + reads, 0),
    errors,
    census: { a: await takeCensus(sites.a), b: await takeCensus(sites.b) },
  };
}

/**
 * The guest rests while its disks are compared; then it goes on, and only what belongs there is left.
 * @returns what is wrong
 */
async function atRest(guest: Guest, from: Site, to: Site, told: number): Promise<string[]> {
  const ours = (): string[] =>
    signalsOf(sites, to, guest)
      .slice(told)
      .map(({ name }) => name);
  await waitFor('RelocationCompleted', () => ours().includes('RelocationCompleted'));
  const errors = await wrongBytes(to, guest, await guest.stop());
  if (ours().join() !== 'RelocationStarted,RelocationCompleted') errors.push(`signals: ${ours().join()}`);
  await waitFor(`nothing to be left on ${from.host.name}`, async () => (await from.leftovers()).length === 0);
  await guest.go();
  await sleep(SETTLE_MS);
  return errors;
}

/**
 * Files that are there now and never were before while the guest was at this host; a relocation's has another
 * name each time.
 */
function newFiles(moves: readonly Move[]): string[] {
  const last = moves.at(-1)!;
  const before = moves.filter(({ to, number }) => to === last.to && number < last.number);
  return Object.entries(last.census).flatMap(([host, { files }]) => {
    const known = new Set(before.flatMap(({ census }) => census[host]!.files.map(plain)));
    return before.length === 0
      ? []
      : files.filter((name) => !known.has(plain(name))).map((name) => `${host}:${name}`);
  });
}

function plain(path: string): string {
  return path.replace(/relocations\/[^/]+/, 'relocations/ID');
}
