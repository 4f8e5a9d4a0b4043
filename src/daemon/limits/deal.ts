/**
 * Deals out what a host may fetch among the disks that arrive.
 *
 * What comes on demand is not held back, so it is taken off first; the rest goes to the copies by weight. A
 * copy that cannot use its part (its origin is slow, its own cap is lower, it pauses) leaves it to the
 * others; what all leave is dealt by weight as well, so that a copy which gets faster finds something to grow
 * into.
 * One cap holds for all disks of the host, and one for those of a peer: a disk may be held by either.
 *
 * It is the max-min fair share with weights, by filling: the level rises for all alike, each disk drops out
 * when it has what it wants, and all of a cap when that is used up.
 */

/** A disk that arrives. Rates in bit/s. */
export interface Claim {
  readonly name: string;
  /** Where it comes from; null: from this host itself. */
  readonly peer: string | null;
  readonly weight: number;
  /** What comes of it although nobody deals it out. */
  readonly demand: number;
  /** What its copy could use now. */
  readonly want: number;
  /** What its copy may use; Infinity: as much as there is. */
  readonly most: number;
}

/** bit/s; null or missing: no cap. */
export interface Caps {
  readonly host: number | null;
  readonly peers: ReadonlyMap<string, number | null>;
}

/** What a cap has left for copies. */
interface Pool {
  left: number;
  readonly members: ReadonlySet<Part>;
}

interface Part {
  readonly claim: Claim;
  copy: number;
}

/** @returns the share of each by name, whole bit/s; null: no cap holds for it */
export function deal(claims: readonly Claim[], caps: Caps): Map<string, number | null> {
  const parts = claims.map((claim) => ({ claim, copy: 0 }));
  const peerCap = ({ peer }: Claim): number | null => (peer === null ? null : (caps.peers.get(peer) ?? null));
  const pools = [...new Set(claims.map(({ peer }) => peer))].flatMap((peer) => {
    const members = parts.filter(({ claim }) => claim.peer === peer);
    const cap = peerCap(members[0]!.claim);
    return cap === null ? [] : [poolOf(cap, members)];
  });
  if (caps.host !== null) pools.push(poolOf(caps.host, parts));
  fill(parts, pools, ({ want, most }) => Math.min(want, most));
  fill(parts, pools, ({ most }) => most);
  return new Map(
    parts.map(({ claim, copy }) => {
      const capped = caps.host !== null || peerCap(claim) !== null;
      return [claim.name, capped ? Math.floor(claim.demand + copy) : null];
    }),
  );
}

function poolOf(cap: number, members: readonly Part[]): Pool {
  const demand = members.reduce((sum, { claim }) => sum + claim.demand, 0);
  return { left: Math.max(cap - demand, 0), members: new Set(members) };
}

/** Lets the parts grow up to `limit` by their weights, until the pools are empty. */
function fill(parts: readonly Part[], pools: readonly Pool[], limit: (claim: Claim) => number): void {
  const pooled = parts.filter((part) => pools.some(({ members }) => members.has(part)));
  const growing = new Set(pooled.filter((part) => part.copy < limit(part.claim)));
  for (const { left, members } of pools) if (left <= 0) for (const part of members) growing.delete(part);
  while (growing.size > 0) {
    const weights = new Map(pools.map((pool) => [pool, weightOf(growing, pool)]));
    const tight = pools.filter((pool) => weights.get(pool)! > 0);
    // What each may grow by a unit of weight, until one has enough or a pool is empty.
    const level = Math.min(
      ...tight.map((pool) => pool.left / weights.get(pool)!),
      ...[...growing].map(({ claim, copy }) => (limit(claim) - copy) / claim.weight),
    );
    const full = tight.filter((pool) => pool.left / weights.get(pool)! <= level);
    for (const part of growing) {
      const rest = (limit(part.claim) - part.copy) / part.claim.weight;
      part.copy += level * part.claim.weight;
      if (rest <= level) growing.delete(part);
    }
    for (const pool of tight) pool.left = Math.max(pool.left - level * weights.get(pool)!, 0);
    for (const { members } of full) for (const part of members) growing.delete(part);
  }
}

function weightOf(growing: ReadonlySet<Part>, { members }: Pool): number {
  let sum = 0;
  for (const part of growing) if (members.has(part)) sum += part.claim.weight;
  return sum;
}
