/**
 * What a session needs of a disk, be it a local image (a target) or a proxy that still fetches.
 *
 * Every call answers through its completion (store/completion.ts), at once or later, exactly once, in any
 * order. The caller has checked the range: 0 <= offset, offset + length <= size.
 */
import type { Completion, ExtentsCompletion } from '../store/completion.ts';
import type { ZeroOptions } from '../store/image/image.ts';

export interface ZeroHow extends ZeroOptions {
  fua: boolean;
}

export interface Disk {
  /** Bytes; never changes while the disk is open. */
  readonly size: number;
  /**
   * No more requests are at hand for now: what was held back for company goes ahead. Without this call it
   * does so with the tick's end.
   */
  endBatch?(): void;
  /** Fills the whole of `into`, which stays the callee's until completion. */
  read(into: Buffer, offset: number, done: Completion): void;
  /** `data` is valid only until this call returns: a caller that needs it longer copies it. */
  write(data: Buffer, offset: number, fua: boolean, done: Completion): void;
  /** Completes once every write that completed before this call survives loss of power. */
  flush(done: Completion): void;
  /**
   * The range reads as zeros afterwards (more than NBD's trim promises), its space given back where possible.
   */
  trim(offset: number, length: number, fua: boolean, done: Completion): void;
  /**
   * The range reads as zeros afterwards. Where fast is asked for and not to be had: ENOTSUP, at once, with
   * nothing changed.
   */
  zero(offset: number, length: number, how: ZeroHow, done: Completion): void;
  /** The range will be wanted soon: a hint, whose completion promises nothing. */
  cache(offset: number, length: number, done: Completion): void;
  /** Allocation of a range; with `one` the first extent suffices. */
  extents(offset: number, length: number, one: boolean, done: ExtentsCompletion): void;
}
