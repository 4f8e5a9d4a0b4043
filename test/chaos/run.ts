/** Story after story, until there is no more time or there were relocations enough; and what to print. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestCa } from '../lab/host/certificates.ts';
import { lastLines, processesOf, signalTo } from '../lab/processes.ts';
import { TLS_NAME } from './moving/host.ts';
import { describePlan, makePlan } from './plan.ts';
import { play, type StoryResult } from './story.ts';
import { Timeline } from './timeline.ts';

export interface ChaosOptions {
  /** A directory of its own, short: the paths of unix sockets hold 107 bytes. */
  dir: string;
  /** Of the first story; the next has the next number. */
  seed: number;
  /** Whichever comes first. */
  minutes: number;
  relocations: number;
  /** Print every line of every story. */
  verbose?: boolean;
  print?: (line: string) => void;
  /** How many stories may fail before it is enough. Default 1. */
  failures?: number;
}

export interface ChaosResult extends StoryResult {
  stories: number;
  failures: number;
  seconds: number;
}

export async function runChaos(options: ChaosOptions): Promise<ChaosResult> {
  const { dir, minutes, relocations, verbose = false, print = (line) => console.log(line) } = options;
  const began = performance.now();
  const pki = join(dir, 'pki');
  await (await TestCa.make(join(dir, 'ca'))).issue(pki, TLS_NAME);
  const total: ChaosResult = {
    stories: 0,
    failures: 0,
    moves: 0,
    givenUp: 0,
    events: 0,
    requests: 0,
    seconds: 0,
  };
  print(`chaos: from seed ${options.seed}`);
  for (let seed = options.seed; total.failures < (options.failures ?? 1); seed = (seed + 1) >>> 0) {
    if (total.moves >= relocations || performance.now() - began > minutes * 60_000) break;
    const plan = makePlan(seed);
    const timeline = new Timeline(verbose);
    const place = join(dir, 's');
    const storyBegan = performance.now();
    if (verbose) for (const line of describePlan(plan)) print(line);
    total.stories += 1;
    try {
      const result = await play(plan, place, pki, timeline);
      total.moves += result.moves;
      total.givenUp += result.givenUp;
      total.events += result.events;
      total.requests += result.requests;
      const seconds = ((performance.now() - storyBegan) / 1000).toFixed(1);
      const route = [plan.moves[0]!.from, ...plan.moves.map(({ to }) => to)].join('');
      print(
        `${String(total.moves).padStart(5)} moves  seed ${seed}  ${plan.driver.padEnd(6)} ${plan.tls ? 'TLS' : '   '} ${route.padEnd(5)}` +
          `${String(result.events).padStart(3)} events ${String(result.requests).padStart(6)} requests  ${seconds} s`,
      );
    } catch (error) {
      total.failures += 1;
      for (const line of describePlan(plan)) print(line);
      for (const line of timeline.lines) print(line);
      await printLogs(
        place,
        plan.moves.flatMap(({ from, to }) => [from, to]),
        print,
      );
      print(`FAILED: seed ${seed}: ${(error as Error).message}`);
      print(`play it again: npm run chaos -- --seed ${seed}`);
    }
    await endAll(place);
    if (total.failures === 0) await rm(place, { recursive: true, force: true });
    else if (total.failures < (options.failures ?? 1)) await rm(place, { recursive: true, force: true });
  }
  total.seconds = (performance.now() - began) / 1000;
  const { stories, moves, givenUp, events, requests, failures, seconds } = total;
  print(
    `${failures === 0 ? 'GOOD' : 'BAD'}: ${moves} relocations and ${givenUp} given up in ${stories} stories, ${events} events, ` +
      `${requests} requests, ${failures} failures, ${seconds.toFixed(0)} s, from seed ${options.seed}`,
  );
  return total;
}

/** A story that broke off leaves what ran. */
async function endAll(place: string): Promise<void> {
  for (let tries = 0; tries < 50; tries++) {
    const left = await processesOf(place);
    if (left.size === 0) return;
    for (const pid of left.keys()) {
      signalTo(pid, 'SIGKILL');
    }
    await sleep(50);
  }
}

async function printLogs(
  place: string,
  hosts: readonly string[],
  print: (line: string) => void,
): Promise<void> {
  await mkdir(place, { recursive: true });
  for (const host of new Set(hosts)) {
    for (const log of [
      'xnbdd.log',
      'xnbd-gateway.log',
      'log/disk.log',
      'log/disk1.log',
      'log/disk2.log',
      'log/disk3.log',
      'log/disk4.log',
    ]) {
      const text = await lastLines(join(place, host, log), 25);
      if (text !== '') print(`  ${host}/${log}:\n    ${text.split(' | ').join('\n    ')}`);
    }
  }
}
