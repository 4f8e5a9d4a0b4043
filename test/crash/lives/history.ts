/**
 * What the guest did to its disk, first at the source and then at the destination, and what it may read after
 * a crash.
 *
 * For one byte that is what any change wrote there that had been asked for, unless a later change is certain
 * to have replaced it: one that was asked for after the first was answered, and that the crash cannot have
 * taken. kill -9 takes nothing that was answered. A loss of power takes nothing that was answered with FUA,
 * or answered before a flush was asked for that was answered itself, whatever the connection. The fence is a
 * flush of all that the source's guest was told.
 */
import type { Clock } from '../files/trace.ts';

export type HostName = 'a' | 'b';

export interface Change {
  what: string;
  host: HostName;
  from: number;
  to: number;
  data: Buffer;
  asked: number;
  answered: number;
  /** When a loss of power cannot take it any more. */
  durable: number;
  /** From then on it may be lost, whatever happens: a sync failed. Infinity: it is as durable as it is. */
  lost: number;
}

interface Flush {
  host: HostName;
  asked: number;
}

export class History {
  readonly size: number;
  readonly changes: Change[];
  readonly #clock: Clock;

  constructor(clock: Clock, initial: Buffer) {
    this.#clock = clock;
    this.size = initial.length;
    this.changes = [
      {
        what: 'what was there at first',
        host: 'a',
        from: 0,
        to: initial.length,
        data: initial,
        asked: -1,
        answered: -1,
        durable: -1,
        lost: Number.POSITIVE_INFINITY,
      },
    ];
  }

  /**
   * A change is being asked for. @returns what to call with its outcome; one that is refused has not
   * happened.
   */
  change(
    host: HostName,
    what: string,
    from: number,
    data: Buffer,
    fua: boolean,
  ): (outcome: 'done' | 'failed' | 'refused') => void {
    const change: Change = {
      what: `${what} #${this.changes.length} at ${host}`,
      host,
      from,
      to: from + data.length,
      data,
      asked: this.#clock.tick(),
      answered: Number.POSITIVE_INFINITY,
      durable: Number.POSITIVE_INFINITY,
      lost: Number.POSITIVE_INFINITY,
    };
    this.changes.push(change);
    return (outcome) => {
      if (outcome === 'refused') this.changes.splice(this.changes.indexOf(change), 1);
      if (outcome !== 'done') return;
      change.answered = this.#clock.tick();
      if (fua) change.durable = change.answered;
    };
  }

  /**
   * A flush (or a fence) is being asked for. @returns what to call when it has been answered with success.
   */
  flush(host: HostName): () => void {
    const flush: Flush = { host, asked: this.#clock.tick() };
    return () => {
      const now = this.#clock.tick();
      for (const change of this.changes) {
        if (change.host === flush.host && change.answered < flush.asked && change.lost > now)
          change.durable = Math.min(change.durable, now);
      }
    };
  }

  /**
   * A sync at this host fails: what it was told is written, and not that it is durable, may be lost from now on.
   * An answer to what was asked for before may be under way still.
   */
  syncFailed(host: HostName): void {
    const now = this.#clock.tick();
    for (const change of this.changes)
      if (change.host === host && change.durable > now) change.lost = Math.min(change.lost, now);
  }

  /** The fence has been answered: all that the source's guest was told is durable. */
  fenced(): void {
    const now = this.#clock.tick();
    for (const change of this.changes)
      if (change.host === 'a' && change.answered < now && change.lost > now)
        change.durable = Math.min(change.durable, now);
  }

  /**
   * What it is after a crash: changes that may have been lost are possible from now on, and certain never.
   * @param lostPower hosts whose page cache is gone
   */
  crashedAt(moment: number, lostPower: ReadonlySet<HostName>): void {
    for (const change of [...this.changes]) {
      if (change.asked >= moment) this.changes.splice(this.changes.indexOf(change), 1);
      else if (!isCertain(change, moment, lostPower)) {
        change.answered = Number.POSITIVE_INFINITY;
        change.durable = Number.POSITIVE_INFINITY;
      } else if (change.durable >= moment) change.durable = Number.POSITIVE_INFINITY;
    }
  }

  /**
   * @param only the disk as this host alone changed it
   * @returns why `seen` cannot be the disk after the crash, one line, or undefined.
   */
  fault(seen: Buffer, moment: number, lostPower: ReadonlySet<HostName>, only?: HostName): string | undefined {
    const asked = this.changes.filter(
      (change) => change.asked < moment && (only === undefined || change.host === only),
    );
    const borders = new Set<number>([0, this.size]);
    for (const { from, to } of asked) borders.add(from).add(to);
    const ordered = [...borders].sort((a, b) => a - b);
    for (let at = 0; at + 1 < ordered.length; at++) {
      const start = ordered[at]!;
      const end = ordered[at + 1]!;
      const covering = asked.filter((change) => change.from <= start && end <= change.to);
      const certain = covering.filter((change) => isCertain(change, moment, lostPower));
      const possible = covering.filter((change) => !certain.some((later) => change.answered < later.asked));
      const fault = segmentFault(start, end, possible, covering, seen);
      if (fault !== undefined) return fault;
    }
    return undefined;
  }
}

function isCertain(change: Change, moment: number, lostPower: ReadonlySet<HostName>): boolean {
  if (lostPower.has(change.host) || change.lost < moment) return change.durable < moment;
  return change.answered < moment;
}

function segmentFault(
  start: number,
  end: number,
  possible: Change[],
  covering: Change[],
  seen: Buffer,
): string | undefined {
  for (const change of possible) {
    if (change.data.compare(seen, start, end, start - change.from, end - change.from) === 0) return undefined;
  }
  for (let at = start; at < end; at++) {
    const holds = (change: Change) => change.data[at - change.from] === seen[at];
    if (possible.some(holds)) continue;
    const source = covering.find(holds)?.what ?? (seen[at] === 0 ? 'zeros' : 'nobody wrote that');
    return (
      `byte ${at} (block ${Math.floor(at / 4096)}) of [${start}, ${end}) is ${source}; ` +
      `it may be ${possible.map((change) => change.what).join(', or ')}`
    );
  }
  return undefined;
}
