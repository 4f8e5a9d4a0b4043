/**
 * Exports as processes that the daemon starts itself: in a session of their own and with no pipe of ours, so
 * that they live on when the daemon ends, and so that nothing which waits for the end of a hook's output
 * waits for them. Their stderr goes to a file.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportPaths, type HostPaths } from '../../config/export-paths.ts';
import { exportStatus } from '../../control/client.ts';
import type { ExportStatus } from '../../control/status.ts';
import { makeDirectory } from '../../store/directory.ts';
import { withoutServiceManager } from '../../system/systemd/service-manager.ts';
import type { ArrivingOrigin } from './arguments.ts';
import { exportsWith, killExport } from './export-process.ts';
import { type Launcher, startLimitMs } from './launcher.ts';

/** A log longer than this is set aside (one older is kept) when its export starts again. */
const longestLog = 1024 * 1024;
const pollMs = 20;
/** What src/log/line.ts puts in front of a message. */
const logPrefix = /^(<\d>|\S+Z \w+: )/;

/** The program beside this one: the source's when run from source, the bundle's when installed. */
export function exportProgram(): string {
  const here = import.meta.filename;
  return here.endsWith('.ts')
    ? join(dirname(here), '../../bin/xnbd-export.ts')
    : join(dirname(here), 'xnbd-export');
}

export interface ChildLauncherOptions {
  paths: HostPaths;
  /** xnbd-export, for Node to run. */
  program: string;
  /** What it is started with (arguments.ts). */
  argumentsOf: (name: string, arrival?: ArrivingOrigin) => Promise<string[]>;
}

export class ChildLauncher implements Launcher {
  readonly startsAtOnce = true;
  readonly #options: ChildLauncherOptions;

  constructor(options: ChildLauncherOptions) {
    this.#options = options;
  }

  async start(name: string, arrival?: ArrivingOrigin, signal?: AbortSignal): Promise<ExportStatus> {
    const { paths, program, argumentsOf } = this.#options;
    const { ctl, log: logPath } = exportPaths(paths, name);
    const args = await argumentsOf(name, arrival);
    await makeDirectory(dirname(logPath));
    const log = await openLog(logPath);
    const { size: logStart } = await log.stat();
    const child = spawn(process.execPath, [program, ...args], {
      detached: true,
      stdio: ['ignore', 'ignore', log.fd],
      cwd: '/',
      env: withoutServiceManager(),
    });
    await log.close();
    const gone = new AbortController();
    const ended = once(child, 'exit').then(
      ([code, signalName]) => gone.abort(`ended with ${signalName ?? `exit code ${code}`}`),
      (error: unknown) => gone.abort((error as Error).message),
    );
    child.unref();
    const deadline = performance.now() + startLimitMs;
    for (;;) {
      const status = await exportStatus(ctl, startLimitMs).catch(() => undefined);
      if (status !== undefined && status.pid === child.pid) return status;
      if (gone.signal.aborted) {
        const said = await lastLine(logPath, logStart, `${name}: `);
        throw new Error(said ?? `xnbd-export ${name} ${gone.signal.reason}; its log is ${logPath}`);
      }
      if (signal?.aborted === true || performance.now() > deadline) {
        // Perhaps nothing else keeps us here.
        child.ref();
        child.kill('SIGKILL');
        await ended;
        if (signal?.aborted === true) throw signal.reason as Error;
        throw new Error(
          `export ${name} was not ready within ${startLimitMs / 1000} s; its log is ${logPath}`,
        );
      }
      await sleep(pollMs);
    }
  }

  found(): Promise<void> {
    return Promise.resolve();
  }

  async kill(name: string, pid: number): Promise<void> {
    await killExport(pid, name);
  }

  async killStrays(name: string): Promise<string[]> {
    const pids = await exportsWith(exportPaths(this.#options.paths, name).stateDir);
    for (const pid of pids) await killExport(pid, name);
    return pids.map((pid) => `pid ${pid}`);
  }

  hostGoesDown(): Promise<boolean> {
    return Promise.resolve(false);
  }
}

async function openLog(path: string) {
  const length = await stat(path).then(
    (found) => found.size,
    () => 0,
  );
  if (length > longestLog) await rename(path, `${path}.old`);
  return open(path, 'a', 0o600);
}

/** What the export said last since `start`, without time, level and disk in front. */
async function lastLine(path: string, start: number, disk: string): Promise<string | undefined> {
  const file = await open(path, 'r');
  try {
    const tail = Buffer.alloc(4096);
    const { size } = await file.stat();
    const from = Math.max(start, size - tail.length);
    const { bytesRead } = await file.read(tail, 0, Math.min(tail.length, size - from), from);
    const lines = tail.toString('utf8', 0, bytesRead).trim().split('\n');
    const last = lines.at(-1)?.replace(logPrefix, '').trim() ?? '';
    const said = last.startsWith(disk) ? last.slice(disk.length) : last;
    return said === '' ? undefined : said;
  } finally {
    await file.close();
  }
}
