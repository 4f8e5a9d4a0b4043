/**
 * Does something grow from move to move? Counts (processes, descriptors, sockets, files) may not: with the
 * guest at the same host they are the same each time, but for a moment's noise. Memory breathes, as a
 * collector of garbage comes when it likes: it may not be more at the end than at the beginning by a share
 * that such breath explains.
 */

/**
 * Moves at the beginning in which caches fill and code is compiled, as a share of all; and so many at least.
 */
const WARM_UP = 0.2;
const LEAST_WARM_UP = 3;
/** Fewer moves after it say nothing. */
const LEAST = 6;
/** MiB that memory may be more. */
export const MEMORY_ALLOWANCE = 8;

export interface Verdict {
  what: string;
  /** Medians of the moves after the warm-up: of their first third and of their last. */
  first: number;
  last: number;
  /** Per move. */
  slope: number;
  /** null: there were too few moves to say so. */
  grows: boolean | null;
}

/**
 * @param values one for each move, in order. @param allowance by how much the last third may be above the
 * first.
 */
export function judge(what: string, values: readonly number[], allowance: number): Verdict {
  const settled = values.slice(Math.max(LEAST_WARM_UP, Math.floor(values.length * WARM_UP)));
  const third = Math.max(1, Math.floor(settled.length / 3));
  const first = median(settled.slice(0, third));
  const last = median(settled.slice(-third));
  const grows = settled.length < LEAST ? null : last - first > allowance;
  return { what, first, last, slope: slopeOf(settled), grows };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2;
}

/** The median of the slopes between all pairs (Theil and Sen): a few that stand out do not move it. */
function slopeOf(values: readonly number[]): number {
  const slopes = values.flatMap((from, at) =>
    values.slice(at + 1).map((to, further) => (to - from) / (further + 1)),
  );
  return median(slopes);
}
