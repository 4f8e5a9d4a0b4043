/** The figures of one relocation, and what they should be. */
import type { Read } from './guest.ts';
import type { Case, Outcome } from './run.ts';

const CHUNK_BITS = 64 * 1024 * 8;
/** A step of the rate is felt for so long, seconds. */
const SETTLED = 5;

export interface Row {
  build: string;
  case: Case;
  /** Milliseconds. */
  coldP50: number;
  coldP99: number;
  coldMax: number;
  cachedP50: number;
  /** Times what the line needs for the payload. */
  complete: number;
  /** The slowest disk's time to the fastest one's. */
  slowest: number;
  dropped: number;
  foreignShare: number | null;
  afterSteps: { from: number; rateMbit: number; p99: number; bound: number }[];
}

/** Milliseconds that cold reads may take. */
export function bounds({ rttMs, rateMbit, disks }: Case): { p50: number; p99: number } {
  const chunkMs = CHUNK_BITS / rateMbit / 1000;
  const others = (disks - 1) * chunkMs;
  return { p50: rttMs + chunkMs + 5 + others, p99: 1.5 * rttMs + 2 * chunkMs + 20 + others };
}

export function rowOf(build: string, wanted: Case, outcome: Outcome): Row {
  const { felt, payloadBytes, dropped, foreignShare, steps } = outcome;
  const cold = felt.flatMap((each) => each.cold);
  const seconds = felt.map((each) => each.seconds);
  const slowest = Math.max(...seconds);
  const afterSteps = steps.map((from, index) => {
    const rateMbit = index === 0 ? wanted.rateMbit / 10 : wanted.rateMbit;
    const until = steps[index + 1] ?? slowest;
    const then = cold.filter(({ at }) => at >= from + SETTLED && at < until);
    return { from, rateMbit, p99: percentile(then, 99), bound: bounds({ ...wanted, rateMbit }).p99 };
  });
  return {
    build,
    case: wanted,
    coldP50: percentile(cold, 50),
    coldP99: percentile(cold, 99),
    coldMax: percentile(cold, 100),
    cachedP50: percentile(
      felt.flatMap((each) => each.cached),
      50,
    ),
    complete: (slowest * wanted.rateMbit * 1e6) / 8 / payloadBytes,
    slowest: slowest / Math.min(...seconds),
    dropped,
    foreignShare,
    afterSteps,
  };
}

/** Milliseconds; NaN of no reads. */
function percentile(reads: readonly Read[], percent: number): number {
  const sorted = reads.map(({ ms }) => ms).toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN;
}
