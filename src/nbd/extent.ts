/**
 * A stretch of a disk: `flags` are AllocationFlag bits (0 = data, HOLE | ZERO = a hole). `length` in bytes.
 */
export interface Extent {
  length: number;
  flags: number;
}
