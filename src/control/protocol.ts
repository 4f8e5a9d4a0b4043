/**
 * What an export says and takes on its control socket (`NAME.ctl`): JSON, one object a line.
 *
 *     -> {"id":1,"method":"status"}
 *     <- {"id":1,"result":{...ExportStatus}}
 *     <- {"id":1,"error":"one line that names the thing and the way out"}
 *     -> {"id":2,"method":"watch"}          then, unasked: {"event":"status","status":{...ExportStatus}}
 *
 * After `watch` the export sends its status on each change of state, and at most twice a second while its
 * counters move.
 */
import type { ExportStatus } from './status.ts';

/**
 * - `status`, `watch`: see above.
 * - `takeover`: fence the origin and begin to keep blocks; answers once that is so (at once where it is so
 *   already).
 * - `source-gone`: the guest that used this export as its disk is gone; tells the lease holder.
 * - `new-guest`: a guest is about to be started on this export; whoever stands by for an earlier one cannot
 *   take it over any more. Refused where the disk is not to be had.
 * - `reclaim`: take a fenced disk back from a lease holder that is lost; refused while that is alive.
 * - `abandon`: give the origin back and delete image, map and record; refused once a write has been
 *   acknowledged. The process ends.
 * - `verify`: begin to compare the disk with its origin, if that is not under way; answers at once, the
 *   status tells the rest.
 * - `accept`: the differences that were found stay, and the origin may be let go.
 * - `origin-timeout`: how long a client's request may wait for the origin, `"timeout"`: seconds (1 to 86400),
 *   "none", or "default".
 * - `stop`: finish requests, sync, end. Nothing is deleted.
 */
export type ControlMethod =
  | 'status'
  | 'watch'
  | 'takeover'
  | 'source-gone'
  | 'source-leaves'
  | 'new-guest'
  | 'reclaim'
  | 'abandon'
  | 'verify'
  | 'accept'
  | 'origin-timeout'
  | 'stop';

/** Seconds from 1 to 86400; 'none': for ever; 'default': as the export was started. */
export type OriginTimeout = number | 'none' | 'default';

export interface ControlRequest {
  id: number;
  method: ControlMethod;
  /** Of `origin-timeout`. */
  timeout?: OriginTimeout;
}

export type ControlResponse = { id: number; result: unknown } | { id: number; error: string };

export interface StatusEvent {
  event: 'status';
  status: ExportStatus;
}
