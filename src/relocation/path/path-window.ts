/**
 * How many bytes the background copy may have in flight.
 *
 * Too few leave the line idle; too many wait in a queue on the path, and a guest's cold read waits behind
 * them. What a guest would wait is what a probe waits (path-probe.ts): so the window is steered by probes.
 * The shortest round trip of a probe is the empty path's (`base`); what it takes more is queue. The window
 * aims at QUEUE_MS of it: enough that the line is never idle, little enough to wait for. Of several probes
 * in a round the shortest counts, because a busy processor, a lost packet or a slow disk at the origin
 * delays some of them, and a queue delays all.
 *
 * - At first the window doubles each round trip, and no more once probes tell of a queue. That is a round
 *   trip too late, and a queue of as much again: so it never goes beyond what the line would hold at the
 *   rate at which answers come in one burst (BurstRate), which is the line's own as soon as a burst fills
 *   it.
 * - With more queue than wanted it becomes what the path holds without it: the window x (base + wanted) /
 *   (base + queue), but no less than what has come in a round trip of late, which is no queue.
 * - Without a queue it grows, faster with each round that shows none: by 1/32, then 1/16, up to 1/4. A window
 *   that was not filled has found nothing out, and does not grow: what holds the copy back then is something
 *   else, and when that ends it must not flood the path.
 * - Never is it more than twice what comes in the time of an answer: more would only wait, here or there.
 *
 * All disks of a host that fetch from the same place share the path (path-share.ts): the base is the shortest
 * that any of them has seen, and each moves a quarter of the way to its share of the windows' sum, by weight,
 * each round. So the queue is one for all, a disk that begins takes its share from the others within a few
 * rounds, and what one leaves the others take.
 *
 * When the route becomes a longer one, all of its round trip looks like queue: the window shrinks to the
 * least, and when probes of a path that is nearly empty take as long as ever, that is the new base.
 *
 * It is the Pace (copy/pace.ts) that a copy has where nothing else holds it back.
 *
 * No number here is a rate; a path of 1 Mbit/s has chunks of GRAIN, one of 10 Gbit/s chunks of a megabyte.
 */
import { BurstRate, DeliveryRate } from './path-rates.ts';

const GRAIN = 4096;
const CHUNK = 64 * 1024;
const LARGEST_CHUNK = 1024 * 1024;
/** What a chunk takes on the line: the larger ones, and at most. */
const CHUNK_MS = 2;
const LONGEST_CHUNK_MS = 16;
/** In flight at first: as little as a TCP connection begins with, nearly. */
const FIRST = 8 * GRAIN;
/** All disks of a path together: 25 Gbit/s over 100 ms are 312 MB. */
export const MOST_IN_FLIGHT = 320 * 1024 * 1024;
/** Queue that is wanted, ms; on a slow line a chunk is more. */
const QUEUE_MS = 4;
const SHORTEST_ROUND_MS = 100;
const LONGEST_ROUND_MS = 2000;
const PROBES_A_ROUND = 4;
const FIRST_GROWTH = 1 / 32;
const MOST_GROWTH = 1 / 4;
/** Of the way to the fair share, a round. */
const PULL = 1 / 4;
/** The empty path is remembered for so long, at least. */
const BASE_MS = 60_000;
/** Rounds at the least window that make a longer base believed. */
const ROUNDS_AT_LEAST = 4;
/** An answer that took longer, and four times as long as on the empty path, has waited out an outage. */
const OUTAGE_MS = 5000;
/** Rates are remembered for so many rounds. */
const RATE_ROUNDS = 8;

/** What the other disks on the path do; of those that could use more. */
export interface PathPeers {
  /** Shortest round trip, ms; Infinity: not known. */
  readonly base: number;
  /** Sum of their windows, bytes. */
  readonly window: number;
  /** Sum of their weights. */
  readonly weight: number;
}

/** What this disk tells the others. */
export interface PathState {
  base: number;
  window: number;
  /** 0: it has less to fetch than it may. */
  weight: number;
}

export interface PathWindowOptions {
  /** @param mine is told to the others. @returns what they have told last */
  exchange?: (mine: PathState) => PathPeers;
  /** Against those of the other disks on the path; more than 0. */
  weight?: () => number;
  /** The origin answers probes; where it does not, its answers are the probes. */
  probed: boolean;
}

const ALONE: PathPeers = { base: Number.POSITIVE_INFINITY, window: 0, weight: 0 };

export class PathWindow {
  /** It opens with an answer only. */
  readonly reopensAt = null;
  readonly #exchange: (mine: PathState) => PathPeers;
  readonly #weight: () => number;
  readonly #probed: boolean;
  readonly #rate = new DeliveryRate();
  readonly #burst = new BurstRate();
  #limit = FIRST;
  #inFlight = 0;
  /** In this round there was more to send than the window let out. */
  #filled = false;
  #doubling = true;
  /** As the last round ended, while doubling. */
  #limitBefore = 0;
  #growth = FIRST_GROWTH;
  /** Shortest round trips of a probe: of this time, and of the time before. */
  #base = Number.POSITIVE_INFINITY;
  #baseBefore = Number.POSITIVE_INFINITY;
  #baseSince = 0;
  /** Shortest time of an answer, ms. */
  #shortestAnswer = Number.POSITIVE_INFINITY;
  #roundEnd = 0;
  #roundShortest = Number.POSITIVE_INFINITY;
  #roundProbes = 0;
  /** The last few probes, while doubling. */
  readonly #latest: number[] = [];
  #roundsAtLeast = 0;
  #peers = ALONE;

  constructor({ exchange = () => ALONE, weight = () => 1, probed }: PathWindowOptions) {
    this.#exchange = exchange;
    this.#weight = weight;
    this.#probed = probed;
  }

  get chunk(): number {
    const bytesPerMs = this.#rate.most;
    const large = floorTo(bytesPerMs * CHUNK_MS, CHUNK);
    const most = Math.min(floorTo(bytesPerMs * LONGEST_CHUNK_MS, GRAIN), floorTo(this.#limit / 4, GRAIN));
    return Math.min(Math.max(Math.min(Math.max(large, CHUNK), most), GRAIN), LARGEST_CHUNK);
  }

  get open(): boolean {
    return this.#inFlight + this.chunk / 2 <= this.#limit;
  }

  /** Bytes that are in flight. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Bytes that may be in flight. */
  get limit(): number {
    return this.#limit;
  }

  /** How often the path should be probed, ms. */
  get probeInterval(): number {
    const base = this.#knownBase;
    if (!Number.isFinite(base)) return 50;
    return Math.min(Math.max(base / 8, 10), 50);
  }

  sent(bytes: number): void {
    this.#inFlight += bytes;
    this.#filled ||= !this.open;
  }

  answered(bytes: number, elapsed: number, now: number): void {
    this.#inFlight -= bytes;
    this.#rate.delivered(bytes, elapsed, now, this.#roundMs * RATE_ROUNDS);
    if (elapsed > OUTAGE_MS && elapsed > 4 * this.#knownBase) {
      this.#beginAnew(now);
      return;
    }
    this.#shortestAnswer = Math.min(this.#shortestAnswer, elapsed);
    if (this.#doubling) this.#double(bytes, now);
    this.#clamp();
    if (!this.#probed) this.probed(elapsed, now);
  }

  failed(bytes: number): void {
    this.#inFlight -= bytes;
  }

  /** A probe has come back. @param elapsed ms */
  probed(elapsed: number, now: number): void {
    this.#learnBase(elapsed, now);
    this.#roundShortest = Math.min(this.#roundShortest, elapsed);
    this.#roundProbes += 1;
    if (this.#doubling) this.#watchForQueue(elapsed, now);
    if (now >= this.#roundEnd && this.#roundProbes >= PROBES_A_ROUND) this.#endRound(now);
  }

  #double(bytes: number, now: number): void {
    const base = this.#knownBase;
    const rate = this.#burst.delivered(bytes, now, Number.isFinite(base) ? base / 4 : SHORTEST_ROUND_MS);
    if (!this.#filled) return;
    const most =
      rate === null || !Number.isFinite(base) ? Number.POSITIVE_INFINITY : rate * (base + QUEUE_MS);
    this.#limit = Math.max(Math.min(this.#limit + bytes, most), this.#limit);
  }

  get #knownBase(): number {
    return Math.min(this.#base, this.#baseBefore, this.#peers.base);
  }

  get #roundMs(): number {
    const base = Number.isFinite(this.#knownBase) ? this.#knownBase : 0;
    return Math.min(Math.max(2 * base, SHORTEST_ROUND_MS), LONGEST_ROUND_MS);
  }

  /** Queue that is wanted, ms. */
  get #wanted(): number {
    const rate = this.#rate.most + this.#othersRate;
    return rate > 0 ? Math.max(QUEUE_MS, this.chunk / rate) : QUEUE_MS;
  }

  /** Of the other disks, bytes a ms, as far as their windows tell. */
  get #othersRate(): number {
    const base = this.#knownBase;
    return Number.isFinite(base) && base > 0 ? this.#peers.window / (base + QUEUE_MS) : 0;
  }

  get #least(): number {
    return 2 * GRAIN;
  }

  #learnBase(elapsed: number, now: number): void {
    if (now - this.#baseSince > BASE_MS) {
      this.#baseBefore = this.#base;
      this.#base = elapsed;
      this.#baseSince = now;
      this.#shortestAnswer *= 2;
    } else this.#base = Math.min(this.#base, elapsed);
  }

  /** All of the last few probes have met a queue: the path is full. */
  #watchForQueue(elapsed: number, now: number): void {
    this.#latest.push(elapsed);
    if (this.#latest.length > PROBES_A_ROUND) this.#latest.shift();
    if (this.#latest.length < PROBES_A_ROUND) return;
    const shortest = Math.min(...this.#latest);
    if (shortest - this.#knownBase <= this.#wanted) return;
    this.#roundShortest = shortest;
    this.#endRound(now);
  }

  #endRound(now: number): void {
    this.#peers = this.#exchange({
      base: Math.min(this.#base, this.#baseBefore),
      window: this.#limit,
      weight: this.#filled ? this.#weight() : 0,
    });
    this.#adjust(this.#roundShortest - this.#knownBase);
    this.#pull();
    this.#clamp();
    this.#roundEnd = now + this.#roundMs;
    this.#roundShortest = Number.POSITIVE_INFINITY;
    this.#roundProbes = 0;
    this.#filled = !this.open;
  }

  #adjust(queue: number): void {
    const base = this.#knownBase;
    const wanted = this.#wanted;
    if (queue > wanted) {
      const without = (this.#limit * (base + wanted)) / (base + queue);
      this.#limit = Math.max(without, Math.min(this.#limit, this.#rate.most * base));
      this.#doubling = false;
      this.#latest.length = 0;
      this.#growth = FIRST_GROWTH;
      this.#lookAtBase();
      return;
    }
    this.#roundsAtLeast = 0;
    if (!this.#filled) return;
    if (this.#doubling) {
      this.#doubling = this.#limit > this.#limitBefore;
      this.#limitBefore = this.#limit;
      return;
    }
    if (queue > wanted / 2) {
      this.#growth = FIRST_GROWTH;
      return;
    }
    this.#limit += Math.max(this.#limit * this.#growth, GRAIN / 4);
    this.#growth = Math.min(this.#growth * 2, MOST_GROWTH);
  }

  /** There is a queue although next to nothing of ours is in flight: or the path has become longer. */
  #lookAtBase(): void {
    if (this.#limit > this.#least) {
      this.#roundsAtLeast = 0;
      return;
    }
    this.#roundsAtLeast += 1;
    if (this.#roundsAtLeast < ROUNDS_AT_LEAST) return;
    this.#base = this.#baseBefore = this.#roundShortest;
    this.#roundsAtLeast = 0;
    this.#doubling = true;
    this.#limitBefore = 0;
    this.#burst.forget();
  }

  #pull(): void {
    const { window, weight } = this.#peers;
    if (weight <= 0) return;
    const own = this.#weight();
    const fair = ((this.#limit + window) * own) / (own + weight);
    if (fair > this.#limit && !this.#filled) return;
    this.#limit += (fair - this.#limit) * PULL;
  }

  #clamp(): void {
    const { weight } = this.#peers;
    const share = this.#weight() / (this.#weight() + weight);
    const answer = Math.max(this.#shortestAnswer, this.#base);
    const useful = Number.isFinite(answer) ? 2 * this.#rate.most * answer + 4 * this.chunk : FIRST;
    const most = Math.min(Math.max(useful, FIRST), MOST_IN_FLIGHT * share);
    this.#limit = Math.min(Math.max(this.#limit, this.#least), most);
  }

  #beginAnew(now: number): void {
    this.#limit = this.#least;
    this.#doubling = true;
    this.#limitBefore = 0;
    this.#burst.forget();
    this.#latest.length = 0;
    this.#growth = FIRST_GROWTH;
    this.#roundEnd = now + this.#roundMs;
    this.#roundShortest = Number.POSITIVE_INFINITY;
    this.#roundProbes = 0;
  }
}

function floorTo(value: number, step: number): number {
  return Math.floor(value / step) * step;
}
