/**
 * Our programs as processes: started, killed and frozen by their ids, and looked for where none should be.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const BIN = join(import.meta.dirname, '../../../dist/bin');
const START_LIMIT_MS = 20_000;

export const program = (name: string): string => join(BIN, name);

export interface Running {
  readonly child: ChildProcess;
  readonly pid: number;
  /** Resolves when it has ended: exit code or signal. */
  readonly ended: Promise<number | string>;
}

/**
 * Starts a program of ours and waits until `isReady`. What it says is appended to the file `log`.
 * @throws Error with its last lines when it ends before that.
 */
export async function startProgram(
  name: string,
  args: readonly string[],
  options: { log: string; isReady: () => Promise<boolean>; env?: NodeJS.ProcessEnv },
): Promise<Running> {
  const log = openSync(options.log, 'a');
  const child = spawn(program(name), args, {
    stdio: ['ignore', log, log],
    env: { ...process.env, ...options.env },
  });
  closeSync(log);
  let over: number | string | undefined;
  const ended = once(child, 'exit').then(
    ([code, signal]: unknown[]) => (over = (code ?? signal) as number | string),
  );
  const deadline = performance.now() + START_LIMIT_MS;
  while (!(await options.isReady())) {
    if (over !== undefined) throw new Error(`${name} ended with ${over}: ${await lastLines(options.log, 2)}`);
    if (performance.now() > deadline) {
      child.kill('SIGKILL');
      throw new Error(
        `${name} is not ready after ${START_LIMIT_MS / 1000} s: ${await lastLines(options.log, 3)}`,
      );
    }
    await sleep(10);
  }
  return { child, pid: child.pid!, ended };
}

export async function lastLines(path: string, count: number): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trim().split('\n').slice(-count).join(' | ');
}

export function isRunning({ child }: Running): boolean {
  return child.exitCode === null && child.signalCode === null;
}

/** Ends it with the signal, and the hard way when it takes longer than ten seconds. @returns how it ended */
export async function end(running: Running, signal: NodeJS.Signals = 'SIGTERM'): Promise<number | string> {
  if (isRunning(running)) {
    running.child.kill(signal);
    const timer = setTimeout(() => running.child.kill('SIGKILL'), 10_000);
    await running.ended;
    clearTimeout(timer);
  }
  return await running.ended;
}

/** Sends a signal. @returns false when there is no such process any more */
export function signalTo(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false;
  }
}

/** Processes whose command line names something below this directory: pid and command line. */
export async function processesOf(directory: string): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)) {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (pid !== process.pid && words.some((word) => word.startsWith(`${directory}/`)))
      found.set(pid, words.join(' ').trim());
  }
  return found;
}

/**
 * What a process that does not end is doing: of each thread its name, its state and where it waits in the
 * kernel.
 */
export async function threadsOf(pid: number): Promise<string> {
  const tasks = await readdir(`/proc/${pid}/task`).catch(() => []);
  const told = tasks.map(async (task) => {
    const of = (file: string) => readFile(`/proc/${pid}/task/${task}/${file}`, 'utf8').catch(() => '?');
    const [comm, stat, wchan] = await Promise.all([of('comm'), of('stat'), of('wchan')]);
    return `${comm.trim()} ${stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3)} ${wchan}`;
  });
  return tasks.length === 0 ? 'it is gone' : (await Promise.all(told)).join('; ');
}
