/**
 * A path with a bottleneck, on a clock of its own: requests of several windows, and their probes, wait in one
 * queue for one line. Nothing is random unless a jitter is asked for.
 */
import type { PathPeers, PathState, PathWindow } from '../../../src/relocation/path/path-window.ts';

/** One disk on the path. */
export interface Traveller {
  window: PathWindow;
  /** Bytes that are still to come. */
  wanted: number;
  /** Bytes that have come. */
  got: number;
}

interface Event {
  at: number;
  run: () => void;
}

export class PathModel {
  now = 0;
  /** Bytes a ms. */
  rate: number;
  rtt: number;
  /** Added to the time of a probe or answer, ms: what a busy processor does. */
  jitter: () => number = () => 0;
  readonly travellers: Traveller[] = [];
  #lineFree = 0;
  #events: Event[] = [];
  /** Longest wait in the queue since it was asked for, ms. */
  #longest = 0;

  constructor(rate: number, rtt: number) {
    this.rate = rate;
    this.rtt = rtt;
  }

  /** A disk begins. */
  begin(window: PathWindow, { probes = true } = {}): Traveller {
    const traveller = { window, wanted: Number.POSITIVE_INFINITY, got: 0 };
    this.travellers.push(traveller);
    const probe = (): void => {
      const sent = this.now;
      this.#carry(64, () => window.probed(this.now - sent, this.now));
      if (traveller.wanted > 0) this.#at(this.now + window.probeInterval, probe);
    };
    if (probes) probe();
    this.#send(traveller);
    return traveller;
  }

  /** Lets the clock run. */
  run(ms: number): void {
    const until = this.now + ms;
    for (;;) {
      const next = this.#events[0];
      if (next === undefined || next.at > until) break;
      this.#events.shift();
      this.now = next.at;
      next.run();
    }
    this.now = until;
  }

  /** The longest wait in the queue since the last call, ms. */
  longestQueue(): number {
    const longest = this.#longest;
    this.#longest = 0;
    return longest;
  }

  #send(traveller: Traveller): void {
    const { window } = traveller;
    while (traveller.wanted > 0 && window.open) {
      const bytes = Math.min(window.chunk, traveller.wanted);
      const sent = this.now;
      window.sent(bytes);
      traveller.wanted -= bytes;
      this.#carry(bytes, () => {
        traveller.got += bytes;
        window.answered(bytes, this.now - sent, this.now);
        this.#send(traveller);
      });
    }
  }

  #carry(bytes: number, arrived: () => void): void {
    this.#at(this.now + this.rtt / 2, () => {
      const waited = Math.max(this.#lineFree - this.now, 0);
      this.#longest = Math.max(this.#longest, waited);
      this.#lineFree = this.now + waited + bytes / this.rate;
      this.#at(this.#lineFree + this.rtt / 2 + this.jitter(), arrived);
    });
  }

  #at(at: number, run: () => void): void {
    let index = this.#events.length;
    while (index > 0 && this.#events[index - 1]!.at > at) index -= 1;
    this.#events.splice(index, 0, { at, run });
  }
}

/** What windows tell each other, by name. */
export class PathBoard {
  readonly #states = new Map<string, PathState>();

  exchange(name: string): (mine: PathState) => PathPeers {
    return (mine) => {
      this.#states.set(name, mine);
      const others = [...this.#states].filter(([other]) => other !== name).map(([, state]) => state);
      const active = others.filter(({ weight }) => weight > 0);
      return {
        base: Math.min(...others.map(({ base }) => base)),
        window: active.reduce((sum, { window }) => sum + window, 0),
        weight: active.reduce((sum, { weight }) => sum + weight, 0),
      };
    };
  }

  leave(name: string): void {
    this.#states.delete(name);
  }
}
