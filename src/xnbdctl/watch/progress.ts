/** How fast an export comes, from one status to the next. */
import type { ExportStatus } from '../../control/status.ts';
import { formatBytes, formatSeconds, formatShare } from '../../log/numbers.ts';
import { unreachable } from '../table.ts';

/** The rate is that of the last so many milliseconds: steady, and soon right after a change. */
const WINDOW_MS = 5000;

interface Sample {
  at: number;
  /**
   * Bytes present, holes not counted: those are skipped in leaps, which tell nothing of the time that the
   * rest takes.
   */
  kept: number;
  fetched: number;
}

export interface Progress {
  status: ExportStatus;
  /** Bytes a second over the link. */
  rate: number;
  /** Seconds until every block is present, if it goes on like this; null when that cannot be said. */
  secondsLeft: number | null;
}

/** Remembers statuses of one export and tells the progress. `now`: milliseconds, any steady clock. */
export class ProgressMeter {
  #samples: Sample[] = [];
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  add(status: ExportStatus): Progress {
    const sample: Sample = {
      at: this.#now(),
      kept: status.presentBytes - status.skippedBytes,
      fetched: status.onDemandBytes + status.backgroundBytes,
    };
    this.#samples.push(sample);
    // One sample from before the window stays, so that the window is whole.
    while (this.#samples.length > 2 && this.#samples[1]!.at <= sample.at - WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0]!;
    const seconds = (sample.at - first.at) / 1000;
    if (seconds <= 0) return { status, rate: 0, secondsLeft: null };
    const missing = status.sizeBytes - status.presentBytes;
    const pace = (sample.kept - first.kept) / seconds;
    return {
      status,
      rate: Math.max(0, (sample.fetched - first.fetched) / seconds),
      secondsLeft: missing === 0 ? 0 : pace > 0 ? missing / pace : null,
    };
  }
}

/** Its blocks come, or may come soon. */
export function isArriving(status: Pick<ExportStatus, 'state'>): boolean {
  return status.state === 'standby' || status.state === 'relocating';
}

/** Everything after the share that is present: rate, time left, where the bytes came from. */
export function progressText({ status, rate, secondsLeft }: Progress): string {
  const parts = [
    `${formatBytes(status.onDemandBytes)} on demand`,
    `${formatBytes(status.backgroundBytes)} background`,
    `${formatBytes(status.skippedBytes)} skipped`,
  ];
  if (status.state === 'relocating') {
    parts.unshift(`${formatBytes(rate)}/s`, `ETA ${secondsLeft === null ? '-' : formatSeconds(secondsLeft)}`);
  }
  if (status.copyPaused !== null) parts.push('paused');
  if (status.badBytes > 0) parts.push(`${formatBytes(status.badBytes)} bad`);
  if (!status.originReachable) parts.push(unreachable(status));
  return parts.join('  ');
}

/** One line without a bar. */
export function progressLine(progress: Progress): string {
  const { name, state, presentBytes, sizeBytes } = progress.status;
  return `${name}  ${state}  ${formatShare(presentBytes, sizeBytes)}  ${progressText(progress)}`;
}
