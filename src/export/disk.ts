/**
 * What a session needs of a disk, whoever keeps it: a local image (a target) or a proxy that still fetches.
 *
 * Every call answers through a {@link Completion}, at once or later, exactly once. That is a callback object and not a promise because
 * this is the hot path: the request object that a session has anyway is the completion, so a request costs no allocation
 * here. Calls may complete in any order. The caller has checked the range: 0 <= offset, offset + length <= size.
 */

/** Receives the outcome of one request: 0, or an NBD errno (`Errno` in nbd/constants.ts). */
export interface Completion {
  complete(errno: number): void;
}

/** A stretch of the disk: `flags` are AllocationFlag bits (0 = data, HOLE | ZERO = a hole). Lengths in bytes. */
export interface Extent {
  length: number;
  flags: number;
}

export interface ExtentsCompletion {
  /** @param extents in order from the requested offset, contiguous; they may stop short of the requested length, not past it. */
  complete(errno: number, extents: readonly Extent[]): void;
}

export interface Disk {
  /** Bytes; never changes while the disk is open. */
  readonly size: number;
  /** Fills the whole of `into`, which stays the callee's until completion. */
  read(into: Buffer, offset: number, done: Completion): void;
  /** `data` is valid only until this call returns: whoever needs it longer copies it. */
  write(data: Buffer, offset: number, fua: boolean, done: Completion): void;
  /** Completes once every write that completed before this call survives loss of power. */
  flush(done: Completion): void;
  /** The range reads as zeros afterwards (as our trim promises more than NBD's), its space given back where possible. */
  trim(offset: number, length: number, fua: boolean, done: Completion): void;
  /** The range reads as zeros afterwards; with `noHole` its space stays allocated. */
  zero(offset: number, length: number, fua: boolean, noHole: boolean, done: Completion): void;
  /** Allocation of a range; with `one` the first extent suffices. */
  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void;
}
