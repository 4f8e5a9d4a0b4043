/** How an export comes, in a line. */
import type { ExportStatus } from '../../control/status.ts';
import { formatBytes, formatClock, formatRate, formatShare } from '../../log/numbers.ts';
import { unreachable } from '../table.ts';

/** Its blocks come, or may come soon. */
export function isArriving(status: Pick<ExportStatus, 'state'>): boolean {
  return status.state === 'standby' || status.state === 'relocating';
}

/** Everything after the share that is present: rate, time left, where the bytes came from. */
export function progressText(status: ExportStatus): string {
  const { state, arrivalRate, secondsLeft } = status;
  const parts = [
    `${formatBytes(status.onDemandBytes)} on demand`,
    `${formatBytes(status.backgroundBytes)} background`,
    `${formatBytes(status.skippedBytes)} skipped`,
  ];
  if (state === 'relocating')
    parts.unshift(
      formatRate(arrivalRate),
      `${secondsLeft === null ? 'unknown' : formatClock(secondsLeft)} left`,
    );
  if (status.copyPaused !== null) parts.push('paused');
  if (status.badBytes > 0) parts.push(`${formatBytes(status.badBytes)} bad`);
  if (!status.originReachable) parts.push(unreachable(status));
  if (status.alarm !== null) parts.push(status.alarm);
  return parts.join('  ');
}

/** One line without a bar. */
export function progressLine(status: ExportStatus): string {
  const { name, state, presentBytes, sizeBytes } = status;
  return `${name}  ${state}  ${formatShare(presentBytes, sizeBytes)}  ${progressText(status)}`;
}
