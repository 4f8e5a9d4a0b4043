/**
 * Starts the process of an export: in a session of its own and with no pipe of ours, so that it lives on when
 * the daemon ends, and so that nothing which waits for the end of a hook's output waits for it. Its stderr
 * goes to a file in the run directory.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readdir, readFile, readlink, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExportPaths } from '../../config/export-paths.ts';
import { exportStatus } from '../../control/client.ts';
import type { ExportStatus } from '../../control/status.ts';
import type { ExportRecord } from '../../store/records/record.ts';

/** A log longer than this is set aside (one older is kept) when its export starts again. */
const longestLog = 1024 * 1024;
const startLimitMs = 20_000;
const pollMs = 20;
/** What src/log/line.ts puts in front of a message. */
const logPrefix = /^(<\d>|\S+Z \w+: )/;

/**
 * The program beside this one: the source's when run from source, the bundle's when installed; XNBD_EXPORT
 * names another.
 */
export function exportProgram(): string {
  const here = import.meta.filename;
  const beside = here.endsWith('.ts')
    ? join(dirname(here), '../../bin/xnbd-export.ts')
    : join(dirname(here), 'xnbd-export');
  return process.env.XNBD_EXPORT ?? beside;
}

/**
 * Arguments that start an arriving disk: a proxy that keeps nothing until its guest writes, or it is told.
 * @param tls arguments by which an origin knows this host.
 */
export function arrivalArguments(
  name: string,
  paths: ExportPaths,
  originUri: string,
  tls: readonly string[],
): string[] {
  return [
    'proxy',
    name,
    '--image',
    paths.image,
    '--origin',
    originUri,
    ...common(paths),
    '--takeover',
    'first-write',
    ...tls,
  ];
}

/** The origin of a disk that arrives, as it is first met. */
export interface ArrivingOrigin {
  uri: string;
  /** What it has to be; undefined where nobody told. */
  expected?: { uuid: string; generation: number };
  /** Its certificate has to be in `allow`. */
  mustBeAllowed: boolean;
}

/** Arguments for the first meeting alone: later the record tells what the origin is. */
export function firstMeeting({ expected, mustBeAllowed }: ArrivingOrigin): string[] {
  return [
    ...(expected === undefined
      ? []
      : ['--origin-uuid', expected.uuid, '--origin-generation', String(expected.generation)]),
    ...(mustBeAllowed ? ['--tls-only-allowed'] : []),
  ];
}

/** Arguments that start an export again as what its record says it is. */
export function recordArguments(record: ExportRecord, paths: ExportPaths, tls: readonly string[]): string[] {
  // A proxy keeps its origin until it has told it to retire, which may be later than its last block.
  if (record.origin !== null) {
    return arrivalArguments(record.name, { ...paths, image: record.image }, record.origin.uri, tls);
  }
  return ['target', record.name, '--image', record.image, ...common(paths)];
}

function common(paths: ExportPaths): string[] {
  return ['--socket', paths.socket, '--state', paths.stateDir, '--ctl', paths.ctl, '--source-gone', 'told'];
}

/**
 * Starts an export and waits until it answers on its control socket.
 * @throws Error with the export's own last line when it ends instead.
 */
export async function startExport(
  program: string,
  args: string[],
  paths: ExportPaths,
  signal?: AbortSignal,
): Promise<ExportStatus> {
  const log = await openLog(paths.log);
  const { size: logStart } = await log.stat();
  const child = spawn(process.execPath, [program, ...args], {
    detached: true,
    stdio: ['ignore', 'ignore', log.fd],
    cwd: '/',
  });
  await log.close();
  const gone = new AbortController();
  const ended = once(child, 'exit').then(
    ([code, name]) => gone.abort(`ended with ${name ?? `exit code ${code}`}`),
    (error: unknown) => gone.abort((error as Error).message),
  );
  child.unref();
  const deadline = performance.now() + startLimitMs;
  for (;;) {
    const status = await exportStatus(paths.ctl, startLimitMs).catch(() => undefined);
    if (status !== undefined && status.pid === child.pid) return status;
    if (gone.signal.aborted) {
      const said = await lastLine(paths.log, logStart, `${args[1]}: `);
      throw new Error(said ?? `xnbd-export ${args[1]} ${gone.signal.reason}; its log is ${paths.log}`);
    }
    if (signal?.aborted === true || performance.now() > deadline) {
      // Perhaps nothing else keeps us here.
      child.ref();
      child.kill('SIGKILL');
      await ended;
      throw signal?.aborted === true
        ? (signal.reason as Error)
        : new Error(
            `export ${args[1]} was not ready within ${startLimitMs / 1000} s; its log is ${paths.log}`,
          );
    }
    await sleep(pollMs);
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

/** True while a process with this id runs an export of this name (ids are given again to others). */
export async function exportRuns(pid: number, name: string): Promise<boolean> {
  try {
    const file = await open(`/proc/${pid}/cmdline`, 'r');
    try {
      const words = (await file.readFile('utf8')).split('\0');
      return words.includes(name) && words.some((word) => word.includes('xnbd-export'));
    } finally {
      await file.close();
    }
  } catch {
    return false;
  }
}

/**
 * Processes of exports that have this state directory, or are about to: of this host, whose view of the file
 * system is ours.
 */
export async function exportsWith(stateDir: string): Promise<number[]> {
  const here = await readlink('/proc/self/ns/mnt');
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
      if (!words.includes(stateDir) || !words.some((word) => word.includes('xnbd-export'))) return false;
      // Another host, in a container or a test, may have the same paths.
      return (await readlink(`/proc/${pid}/ns/mnt`).catch(() => '')) === here;
    }),
  );
  return pids.filter((_, at) => found[at]);
}

/** Ends an export's process the hard way, and waits until it is gone. */
export async function killExport(pid: number, name: string): Promise<void> {
  while (await exportRuns(pid, name)) {
    process.kill(pid, 'SIGKILL');
    await sleep(pollMs);
  }
}
