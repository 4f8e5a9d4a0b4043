/**
 * The story of each disk and each move, as the daemon's log tells it: what has changed, nothing that only
 * goes on.
 */
import type { ExportStatus } from '../control/status.ts';
import { log } from '../log/log.ts';
import type { Host } from './host.ts';
import type { Move } from './registry/move-file.ts';

export function logChanges({ exports, moves }: Pick<Host, 'exports' | 'moves'>): void {
  exports.on('status', (status, before) => {
    logOrigin(status, before);
    logState(status, before);
    logAlarm(status, before);
  });
  moves.on('entered', logMove);
}

function logState({ name, state }: ExportStatus, before: ExportStatus | undefined): void {
  if (before === undefined || before.state === state) return;
  log.info(`disk ${name}: ${before.state}, now ${state}`, { id: 'state-changed', export: name });
}

function logOrigin(status: ExportStatus, before: ExportStatus | undefined): void {
  const { name, origin, originReachable, originUnreachableReason } = status;
  if (originReachable === (before?.originReachable ?? true)) return;
  if (originReachable)
    log.info(`disk ${name}: its origin can be reached again`, { id: 'origin-reachable', export: name });
  else
    log.warning(`disk ${name}: its origin ${origin} is unreachable: ${originUnreachableReason}`, {
      id: 'origin-unreachable',
      export: name,
    });
}

function logAlarm({ name, origin, alarm }: ExportStatus, before: ExportStatus | undefined): void {
  if (alarm === (before?.alarm ?? null)) return;
  if (alarm !== null)
    log.warning(`disk ${name}, from ${origin}: ${alarm}`, { id: 'arrival-alarm', export: name });
  else log.info(`disk ${name}: it comes as it should again`, { id: 'arrival-well', export: name });
}

function logMove(move: Move): void {
  const { domain, state, disks } = move;
  const fields = { domain: domain.name, domainUuid: domain.uuid };
  if (state === 'relocating')
    log.info(`${domain.name} has arrived: its disks follow`, { id: 'move-arrived', ...fields });
  if (state === 'failed')
    log.warning(`the move of ${domain.name} is given up: ${move.reason}`, { id: 'move-failed', ...fields });
  if (state !== 'completed') return;
  for (const [name, done] of Object.entries(disks)) {
    log.info(
      `disk ${name} of ${domain.name} is here completely: ${done?.onDemandBytes} bytes on demand, ` +
        `${done?.backgroundBytes} in the background, ${done?.skippedBytes} skipped, ` +
        `${done?.secondsSinceTakeover.toFixed(1)} s after the takeover`,
      { id: 'disk-complete', ...fields, export: name },
    );
  }
}
