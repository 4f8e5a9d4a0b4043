/**
 * How image and disk answer a request: through a callback object, at once or later, exactly once. Not a
 * promise, because this is the hot path: the request object that a session has anyway is the completion, so a
 * request costs no allocation here.
 */
import type { Extent } from '../nbd/extent.ts';

export type { Extent };

/** Receives the outcome of one request: 0, or an NBD errno (`Errno` in nbd/constants.ts). */
export interface Completion {
  complete(errno: number): void;
}

export interface ExtentsCompletion {
  /**
   * @param extents in order from the requested offset, contiguous; they may stop short of the requested
   * length, not past it.
   */
  complete(errno: number, extents: readonly Extent[]): void;
}
