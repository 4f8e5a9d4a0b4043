/**
 * `xnbdctl watch`: a live bar for each export, or, where stdout is no terminal, a line a second for each that
 * moves.
 *
 * Named exports are watched until all of them are complete; without names all of the host's are, those that
 * appear later too, until the administrator has seen enough.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { MultiBar, type SingleBar } from 'cli-progress';
import type { ControlClient } from '../../control/client.ts';
import type { ExportStatus } from '../../control/status.ts';
import { formatShare } from '../../log/numbers.ts';
import { ANSWER_LIMIT_MS, connectIfRunning, connectRunning } from '../known-exports.ts';
import { isArriving, progressLine, progressText } from './progress.ts';

export interface Watched {
  /** Control sockets to watch, looked up again every second. */
  paths(): Promise<string[]>;
  /** Ends when every export of the first look is complete. @throws when one of those does not answer. */
  untilComplete: boolean;
}

const LOOK_MS = 1000;

interface Entry {
  client: ControlClient;
  latest: ExportStatus | null;
  ended: boolean;
}

/**
 * Resolves when there is nothing more to see. @throws Error naming an export that ends before it is complete.
 */
export async function watch(watched: Watched, out: NodeJS.WriteStream, signal?: AbortSignal): Promise<void> {
  const entries = new Map<string, Entry>();
  const view = out.isTTY ? barView(out) : lineView(out);
  try {
    while (signal?.aborted !== true) {
      const fresh = (await watched.paths()).filter((path) => !entries.has(path));
      await Promise.all(fresh.map((path) => open(path, entries, view, watched.untilComplete)));
      const shown = [...entries.values()].flatMap(({ latest }) => latest ?? []);
      view.tick(shown);
      if (watched.untilComplete && shown.length === entries.size && !shown.some(isArriving)) return;
      await sleep(LOOK_MS, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
      for (const [path, { latest, ended }] of entries) {
        if (!ended) continue;
        entries.delete(path);
        if (latest !== null) view.gone(latest);
        if (watched.untilComplete)
          throw new Error(`${latest?.name ?? path} ended before it was complete: see its log`);
      }
    }
  } finally {
    view.close();
    for (const { client } of entries.values()) client.close();
  }
}

async function open(path: string, entries: Map<string, Entry>, view: View, required: boolean): Promise<void> {
  const take = (status: ExportStatus): void => {
    const entry = entries.get(path);
    if (entry !== undefined) entry.latest = status;
    view.show(status);
  };
  const client = await (required ? connectRunning : connectIfRunning)(path, take);
  if (client === undefined) return;
  const entry: Entry = { client, latest: null, ended: false };
  entries.set(path, entry);
  void client.closed.then(() => (entry.ended = true));
  const first = client.watch(ANSWER_LIMIT_MS);
  if (required) await first;
  // Nobody waits for one that hangs: it is tried again with a later look.
  else first.catch(() => client.close());
}

interface View {
  show(status: ExportStatus): void;
  /** Once a second. */
  tick(shown: readonly ExportStatus[]): void;
  gone(status: ExportStatus): void;
  close(): void;
}

function lineView(out: NodeJS.WriteStream): View {
  const said = new Map<string, string>();
  return {
    show: () => undefined,
    tick(shown) {
      for (const status of shown) {
        const line = progressLine(status);
        if (said.get(status.name) === line) continue;
        said.set(status.name, line);
        out.write(`${line}\n`);
      }
    },
    gone: ({ name }) => void out.write(`${name}  ended\n`),
    close: () => undefined,
  };
}

function barView(out: NodeJS.WriteStream): View {
  const bars = new Map<string, SingleBar>();
  const multi = new MultiBar({
    stream: out,
    format: '{name}  {state}  {bar}  {share}  {text}',
    barCompleteChar: '━',
    barIncompleteChar: '╌',
    barsize: 24,
    hideCursor: true,
    linewrap: false,
    clearOnComplete: false,
    stopOnComplete: false,
    forceRedraw: true,
    fps: 5,
    gracefulExit: false,
  });
  return {
    show(status) {
      const { name, state, presentBytes, sizeBytes } = status;
      const payload = {
        name: name.padEnd(16),
        state: state.padEnd(10),
        share: formatShare(presentBytes, sizeBytes).padStart(6),
        text: progressText(status),
      };
      const bar = bars.get(name);
      if (bar === undefined) bars.set(name, multi.create(Math.max(1, sizeBytes), presentBytes, payload));
      else bar.update(presentBytes, payload);
    },
    tick: () => undefined,
    gone({ name }) {
      const bar = bars.get(name);
      if (bar !== undefined) multi.remove(bar);
      bars.delete(name);
    },
    close: () => multi.stop(),
  };
}
