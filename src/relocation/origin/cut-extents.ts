import type { Extent } from '../../store/completion.ts';

/** What of the extents lies behind the first `skip` bytes, `length` bytes at most. */
export function cutExtents(extents: readonly Extent[], skip: number, length: number): Extent[] {
  const found: Extent[] = [];
  let at = -skip;
  for (const extent of extents) {
    const from = Math.max(at, 0);
    at += extent.length;
    const until = Math.min(at, length);
    if (from < until) found.push({ length: until - from, flags: extent.flags });
  }
  return found;
}
