/** An export watched on its control socket: its latest status, and waiting for a state. */
import { connectControl } from '../src/control/client.ts';
import type { ExportState, ExportStatus } from '../src/control/status.ts';

export interface WatchedExport {
  readonly status: ExportStatus;
  /** Told each status from now on. */
  onStatus: (status: ExportStatus) => void;
  /** Resolves when it is in this state. @throws Error when it ends before. */
  until(state: ExportState): Promise<ExportStatus>;
  /** Finishes, syncs and ends it. */
  stop(): Promise<void>;
  close(): void;
}

export async function watchExport(ctl: string): Promise<WatchedExport> {
  const waiting = new Set<() => void>();
  let latest: ExportStatus | null = null;
  const client = await connectControl(ctl, (status) => take(status));
  let ended = false;
  const take = (status: ExportStatus): void => {
    latest = status;
    watched.onStatus(status);
    for (const look of waiting) look();
  };
  void client.closed.then(() => {
    ended = true;
    for (const look of waiting) look();
  });
  const watched: WatchedExport = {
    get status() {
      return latest!;
    },
    onStatus: () => undefined,
    until: (state) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (latest?.state === state) resolve(latest);
          else if (ended)
            reject(new Error(`the export on ${ctl} ended in state ${latest?.state}, before ${state}`));
          else return;
          waiting.delete(look);
        };
        waiting.add(look);
        look();
      }),
    async stop() {
      // It may end before its answer has been read, and a retired one has ended by itself.
      await client.call('stop').catch(() => undefined);
      await client.closed;
    },
    close: () => client.close(),
  };
  await client.watch();
  return watched;
}
