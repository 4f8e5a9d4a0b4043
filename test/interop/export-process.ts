/** xnbd-export as a process of its own, and the programs of others as its clients. */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

const program = join(import.meta.dirname, '../../src/bin/xnbd-export.ts');
const execute = promisify(execFile);

export interface ExportProcess {
  child: ChildProcess;
  /** What it printed when it was ready. */
  ready: string;
  /** Everything on stderr so far. */
  log: () => string;
  /** Sends a signal and waits for the end. @returns exit code and signal */
  end(signal?: NodeJS.Signals): Promise<[number | null, NodeJS.Signals | null]>;
}

/** @throws Error with its stderr when it ends before it is ready. */
export async function startExport(args: string[]): Promise<ExportProcess> {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const closed = once(child, 'close');
  const lines = createInterface({ input: child.stdout });
  const ready = await Promise.race([
    once(lines, 'line').then(([line]) => String(line)),
    closed.then(() => {
      throw new Error(log);
    }),
  ]);
  const end = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    return exited;
  };
  return { child, ready, log: () => log, end };
}

/** Runs a client to its end. @returns stdout. @throws when it fails */
export async function run(command: string, ...args: string[]): Promise<string> {
  const { stdout } = await execute(command, args, { maxBuffer: 64 * 1024 * 1024, timeout: 120_000 });
  return stdout;
}

/** Skips a test, by name and with the reason, where a program is missing. */
export function needs(context: Mocha.Context, ...commands: string[]): void {
  for (const command of commands) {
    if (spawnSync('sh', ['-c', `command -v ${command}`]).status === 0) continue;
    console.log(`      skipped: ${command} is not installed`);
    context.skip();
  }
}
