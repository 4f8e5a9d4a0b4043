/**
 * Finds out what a guest would wait for the path now: a PING, which the origin answers at once, before all
 * that it has to send of the background's. It is a hundred bytes there and back, a few times in a round
 * trip, and only while something is being copied.
 *
 * Unlike the time of a chunk this has nothing in it of the origin's disk, of ours, or of the chunk's length.
 */
import { Command } from '../../nbd/constants.ts';
import type { OriginLink } from '../origin/link.ts';

/** Of an origin that is away no more answers are waited for. */
const MOST_UNDER_WAY = 16;

export interface PathProbeOptions {
  link: Pick<OriginLink, 'command' | 'unreachableSince'>;
  /** Something is under way, so that there may be a queue. */
  busy: () => boolean;
  /** Until the next probe, ms. */
  interval: () => number;
  /** @param elapsed there and back, ms. @param now ms of `performance.now()` */
  probed: (elapsed: number, now: number) => void;
}

export class PathProbe {
  readonly #options: PathProbeOptions;
  #timer: NodeJS.Timeout | null = null;
  #underWay = 0;

  constructor(options: PathProbeOptions) {
    this.#options = options;
  }

  start(): void {
    if (this.#timer === null) this.#probe();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #probe(): void {
    const { link, busy, interval, probed } = this.#options;
    this.#timer = setTimeout(() => this.#probe(), interval()).unref();
    if (!busy() || this.#underWay >= MOST_UNDER_WAY || link.unreachableSince !== null) return;
    const sentAt = performance.now();
    this.#underWay += 1;
    link.command(Command.XNBD_PING, {
      // An origin that does not know it says so as fast.
      complete: () => {
        this.#underWay -= 1;
        const now = performance.now();
        if (this.#timer !== null) probed(now - sentAt, now);
      },
    });
  }
}
