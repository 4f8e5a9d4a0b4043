/**
 * Processes of tests: programs run to their end, or started and ended by their ids; and what is known of
 * others by looking at /proc.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from './wait-for.ts';

const TOP = join(import.meta.dirname, '../..');
const READY_LIMIT_MS = 30_000;

export type RunOptions = {
  /** Written to standard input, which is otherwise empty. */
  input?: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** After so many milliseconds the program is killed and the call fails. Default 60000. */
  timeoutMs?: number;
  /** False: a failing exit code is a result, not an error. Default true. */
  check?: boolean;
};

export type RunResult = { code: number; stdout: string; stderr: string };

/** A program that was started and goes on. */
export interface Running {
  readonly pid: number;
  /** The file that has its output, and that of those that ran before. */
  readonly log: string;
  readonly process: ChildProcess;
  /** Resolves when it has ended: exit code or signal. */
  readonly ended: Promise<number | string>;
  readonly runs: boolean;
  /** All that it has written so far. */
  said(): string;
  /** Sends SIGTERM (or `signal`), waits for the end, and after `graceMs` (default 5000) sends SIGKILL. */
  end(signal?: NodeJS.Signals, graceMs?: number): Promise<void>;
}

/**
 * Runs a program to its end. It counts as ended when it has exited, even if a child that it left behind still
 * holds its output: what had been printed by a moment later is the result.
 */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { input = '', timeoutMs = 60_000, check = true } = options;
  const begun = performance.now();
  const child = spawn(argv[0]!, argv.slice(1), {
    stdio: 'pipe',
    env: options.env,
    cwd: options.cwd,
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  child.stdin.on('error', () => undefined).end(input);
  const closed = once(child, 'close');
  closed.catch(() => undefined);
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
  await Promise.race([closed, sleep(500, undefined, { ref: false })]);
  child.stdout.destroy();
  child.stderr.destroy();
  const late = signal !== null && performance.now() - begun >= timeoutMs;
  if (late || (check && code !== 0)) {
    const how = late ? `not done after ${timeoutMs} ms` : (signal ?? `exit code ${code}`);
    const said = output.stderr.trim() || output.stdout.trim() || 'no output';
    throw new Error(`${argv.join(' ')}: ${how}: ${said}`);
  }
  return { code: code ?? 128, ...output };
}

/** Starts a program whose output goes to the file `log` (appended). It holds none of the caller's pipes. */
export async function start(
  argv: readonly string[],
  options: { log: string; env?: NodeJS.ProcessEnv; cwd?: string; detached?: boolean },
): Promise<Running> {
  const { log, env, cwd, detached = false } = options;
  const from = existsSync(log) ? statSync(log).size : 0;
  const file = await open(log, 'a');
  try {
    const child = spawn(argv[0]!, argv.slice(1), {
      stdio: ['ignore', file.fd, file.fd],
      detached,
      env,
      cwd,
    });
    const ended = once(child, 'exit').then(
      ([code, signal]: unknown[]) => (code ?? signal) as number | string,
    );
    ended.catch(() => undefined);
    await once(child, 'spawn');
    if (detached) child.unref();
    const runs = (): boolean => child.exitCode === null && child.signalCode === null;
    return {
      pid: child.pid!,
      log,
      process: child,
      ended,
      get runs() {
        return runs();
      },
      said: () => readFileSync(log).toString('utf8', from),
      async end(signal = 'SIGTERM', graceMs = 5000) {
        if (!runs()) return;
        child.kill(signal);
        const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
        await ended;
        clearTimeout(timer);
      },
    };
  } finally {
    await file.close();
  }
}

/**
 * Starts a program of ours, from source or as it was built, and waits until it is ready: has said `ready`, or
 * answers.
 * @throws Error with what it said when it ends before that
 */
export async function startProgram(
  name: string,
  args: readonly string[],
  options: {
    log: string;
    ready: string | (() => Promise<boolean>);
    env?: NodeJS.ProcessEnv;
    built?: boolean;
  },
): Promise<Running> {
  const { log, ready, env, built = false } = options;
  const program = built ? [builtProgram(name)] : [process.execPath, join(TOP, `src/bin/${name}.ts`)];
  const running = await start([...program, ...args], { log, env: { ...process.env, ...env } });
  const isReady = typeof ready === 'string' ? () => running.said().includes(ready) : ready;
  const readyOrEnded = async (): Promise<boolean> => (await isReady()) || !running.runs;
  try {
    await waitFor(`${name} to be ready`, readyOrEnded, READY_LIMIT_MS);
  } catch (error) {
    await running.end('SIGKILL');
    throw new Error(`${(error as Error).message}: ${await lastLines(log, 3)}`);
  }
  if (running.runs || (await isReady())) return running;
  throw new Error(running.said().trim() || `${name} has ended: ${await running.ended}`);
}

/** The path of a program of ours in dist/. */
export function builtProgram(name: string): string {
  return join(TOP, 'dist/bin', name);
}

export async function lastLines(path: string, count: number): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trim().split('\n').slice(-count).join(' | ');
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
