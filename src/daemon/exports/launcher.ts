/**
 * How the process of an export comes and goes: as a unit of systemd (unit-launcher.ts), or, where there is no
 * systemd, as a child of the daemon that outlives it (child-launcher.ts). Which disks need one, and what
 * follows when one is gone, is in exports.ts.
 */
import type { ExportStatus } from '../../control/status.ts';
import type { ArrivingOrigin } from './arguments.ts';

/** An export that has not answered on its control socket after this is given up. */
export const startLimitMs = 20_000;

export interface Launcher {
  /** False where nothing starts before the daemon has said that it is ready. */
  readonly startsAtOnce: boolean;

  /**
   * Starts the export of a disk, as its record says, or as one that arrives, and waits until it answers on
   * its control socket.
   * @throws Error with the export's own last line when it ends instead; the reason of `signal`.
   */
  start(name: string, arrival?: ArrivingOrigin, signal?: AbortSignal): Promise<ExportStatus>;

  /** An export that runs was found: one that an earlier release started may lack what today's have. */
  found(name: string, pid: number): Promise<void>;

  /** Ends the process of an export the hard way, and waits until it is gone. */
  kill(name: string, pid: number): Promise<void>;

  /** Ends what was being started for a disk and has no control socket yet. @returns what it has ended */
  killStrays(name: string): Promise<string[]>;

  /** The host is being shut down, and exports end because of it. */
  hostGoesDown(): Promise<boolean>;
}
