import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

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

/** A program that was started and goes on. Its output is in the file `log`. */
export type Running = {
  readonly pid: number;
  readonly log: string;
  readonly process: ChildProcess;
  /** Sends SIGTERM (or `signal`), waits for the end, and after `graceMs` (default 5000) sends SIGKILL. */
  end(signal?: NodeJS.Signals, graceMs?: number): Promise<void>;
};

/**
 * Runs a program to its end. It counts as ended when it has exited, even if a child that it left behind still holds its
 * output: what had been printed by a moment later is the result.
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
  options: { log: string; env?: NodeJS.ProcessEnv; cwd?: string },
): Promise<Running> {
  const log = await open(options.log, 'a');
  try {
    const child = spawn(argv[0]!, argv.slice(1), {
      stdio: ['ignore', log.fd, log.fd],
      detached: true,
      env: options.env,
      cwd: options.cwd,
    });
    await once(child, 'spawn');
    child.unref();
    return { pid: child.pid!, log: options.log, process: child, end: (...how) => end(child, ...how) };
  } finally {
    await log.close();
  }
}

async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM', graceMs = 5000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
  await exited;
  clearTimeout(timer);
}
