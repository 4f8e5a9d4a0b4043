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

export type ExportState =
  | 'serving'
  | 'lent'
  | 'fencing'
  | 'fenced'
  | 'retired'
  | 'standby'
  | 'relocating'
  | 'reclaimed';

/** The counters of one relocation, also in the D-Bus signal RelocationCompleted. */
export interface RelocationCounters {
  /** Bytes fetched because a client asked for them. */
  onDemandBytes: number;
  /** Bytes fetched by the background copy. */
  backgroundBytes: number;
  /** Bytes never fetched because they are holes (or zeros) at the origin. */
  skippedBytes: number;
  /** From the takeover until now, or until the last block was present. 0 before the takeover. */
  secondsSinceTakeover: number;
}

/** A stretch of a disk that cannot be copied. */
export interface BadRange {
  /** Bytes. */
  offset: number;
  length: number;
  /** Which end fails. */
  at: 'origin' | 'image';
}

/** A comparison of a disk with its origin (src/relocation/self-check/verification.ts). Bytes. */
export interface VerificationStatus {
  /** `passed`: no difference; `failed`: it could not be carried out. */
  state: 'running' | 'passed' | 'differs' | 'failed';
  /** What travelled. */
  by: 'hashes' | 'data';
  /** How far it has come over the disk. */
  walkedBytes: number;
  comparedBytes: number;
  /** Not compared: written since the takeover, and not here yet. */
  writtenBytes: number;
  absentBytes: number;
  /** Found different, and where: the first ranges. */
  differentBytes: number;
  different: { offset: number; length: number }[];
  /** Different, but perhaps written before a loss of power, and where. */
  doubtfulBytes: number;
  doubtful: { offset: number; length: number }[];
  /** Why it failed, one line, or null. */
  error: string | null;
}

export interface ExportStatus extends RelocationCounters {
  name: string;
  uuid: string;
  /** Grows by one with each takeover. */
  generation: number;
  state: ExportState;
  pid: number;
  sizeBytes: number;
  presentBytes: number;
  /** URI of the origin while there is one, else null. */
  origin: string | null;
  /** false while the link to the origin is down; true where there is no origin. */
  originReachable: boolean;
  /** ISO 8601 time since when the origin cannot be reached, or null. */
  originUnreachableSince: string | null;
  /** Why the origin cannot be reached, one line, or null. */
  originUnreachableReason: string | null;
  /** How long a client's request may wait for the origin before it gets EIO; null: for ever. */
  originTimeoutSeconds: number | null;
  /** Why the background copy pauses (no room), one line, or null. */
  copyPaused: string | null;
  /**
   * Bytes that could not be copied so far, because the origin cannot read them or the image cannot take them.
   */
  badBytes: number;
  /** Where those are, the first few. */
  badRanges: BadRange[];
  /**
   * In standby: bytes of data at the origin, as far as it tells (what the destination will need at most);
   * else null.
   */
  originDataBytes: number | null;
  image: string;
  socket: string;
  /** Clients connected now, the lease holder not counted. */
  clients: number;
  /** uuid of the lease attached to this export, or null. */
  lease: string | null;
  /**
   * HOST:PORT that took the disk over from here, as it calls itself; empty: it did not tell; null: nobody
   * did.
   */
  movedTo: string | null;
  /** ISO 8601 time of that, or null. */
  movedAt: string | null;
  /** Bytes that clients wrote here since the start. */
  writtenBytes: number;
  /** The comparison with the origin that runs or ran last, since the start; null: none. */
  verification: VerificationStatus | null;
  /** The last error that an administrator should know of, one line, or null. */
  error: string | null;
}

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
