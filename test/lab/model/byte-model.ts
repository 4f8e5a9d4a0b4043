/**
 * What a disk may answer while reads and writes overlap in time.
 *
 * Every change is remembered with its bytes, the moment when it was asked for and the moment when it was
 * answered. For one byte a read may return what any change wrote there, if the change was asked for before
 * the read was answered, unless a later change is certain to have replaced it: one that was asked for after
 * the first was answered, and answered with success before the read was asked for. Changes that overlap in
 * time may have won in either order. But once a read overlaps no change, its outcome is the order: it is
 * remembered as if it had been a change, so that a later read that sees another winner is a fault.
 *
 * A change that failed, or whose answer was lost with the process, may or may not have happened: it is
 * possible, and replaces nothing.
 */
import assert from 'node:assert/strict';

interface Change {
  what: string;
  from: number;
  to: number;
  data: Buffer;
  asked: number;
  answered: number;
  /** It has certainly happened. */
  certain: boolean;
}

export class ByteModel {
  readonly size: number;
  #now = 0;
  #reading = 0;
  #changes: Change[];

  constructor(initial: Buffer) {
    this.size = initial.length;
    this.#changes = [
      { what: 'origin', from: 0, to: initial.length, data: initial, asked: -1, answered: -1, certain: true },
    ];
  }

  /** A change is being asked for. @returns what to tell when it is answered */
  change(
    what: string,
    from: number,
    data: Buffer,
  ): { done(outcome: 'certain' | 'possible' | 'refused'): void } {
    const change: Change = {
      what: `${what} #${this.#changes.length}`,
      from,
      to: from + data.length,
      data: Buffer.from(data),
      asked: ++this.#now,
      answered: Number.POSITIVE_INFINITY,
      certain: false,
    };
    this.#changes.push(change);
    return {
      done: (outcome) => {
        if (change.answered !== Number.POSITIVE_INFINITY) return;
        change.answered = ++this.#now;
        change.certain = outcome === 'certain';
        if (outcome === 'refused') this.#changes.splice(this.#changes.indexOf(change), 1);
      },
    };
  }

  /** The process is gone: what was not answered is decided now, one way or the other. */
  killed(): void {
    const now = ++this.#now;
    for (const change of this.#changes)
      if (change.answered === Number.POSITIVE_INFINITY) change.answered = now;
  }

  /**
   * A read is being asked for.
   * @returns what to tell when it is answered: its data, or null when it has failed. That throws an
   * AssertionError when no history explains the data.
   */
  read(from: number, length: number): { done(data: Buffer | null): void } {
    const asked = ++this.#now;
    this.#reading++;
    return {
      done: (data) => {
        this.#reading--;
        if (data !== null) this.#check(from, from + length, asked, ++this.#now, data);
      },
    };
  }

  #check(from: number, to: number, asked: number, answered: number, data: Buffer): void {
    assert.equal(data.length, to - from);
    const touching = this.#changes.filter(
      (change) => change.from < to && from < change.to && change.asked < answered,
    );
    const borders = new Set([from, to]);
    for (const change of touching) {
      borders.add(Math.max(from, change.from));
      borders.add(Math.min(to, change.to));
    }
    const ordered = [...borders].sort((a, b) => a - b);
    for (let at = 0; at + 1 < ordered.length; at++) {
      const start = ordered[at]!;
      const end = ordered[at + 1]!;
      const covering = touching.filter((change) => change.from <= start && end <= change.to);
      const possible = covering.filter((change) => !isReplaced(change, covering, asked));
      this.#checkSegment(start, end, possible, covering, data.subarray(start - from, end - from));
    }
    if (touching.every((change) => change.answered < asked)) {
      const what = `what a read of [${from}, ${to}) saw`;
      this.#changes.push({ what, from, to, data: Buffer.from(data), asked, answered, certain: true });
      // Reads that began earlier may still need what this one replaces.
      if (this.#reading === 0)
        this.#changes = this.#changes.filter((each) => !isInside(each, from, to, asked));
    }
  }

  #checkSegment(start: number, end: number, possible: Change[], covering: Change[], seen: Buffer): void {
    const slices = possible.map((change) => change.data.subarray(start - change.from, end - change.from));
    if (slices.some((slice) => slice.equals(seen))) return;
    for (let at = 0; at < seen.length; at++) {
      if (slices.some((slice) => slice[at] === seen[at])) continue;
      const source = covering.find((change) => change.data[start + at - change.from] === seen[at]);
      assert.fail(
        `byte ${start + at} (block ${Math.floor((start + at) / 4096)}) of [${start}, ${end}) is ${seen[at]}` +
          ` (${source === undefined ? 'nobody wrote that' : source.what}); possible: ${possible.map((each) => each.what).join(', ')}`,
      );
    }
  }
}

/** What a read of [from, to) at that moment has settled. */
function isInside(change: Change, from: number, to: number, asked: number): boolean {
  return from <= change.from && change.to <= to && change.answered < asked;
}

/** Another change is certain to have come after this one, and before the moment. */
function isReplaced(change: Change, covering: readonly Change[], moment: number): boolean {
  return covering.some((later) => later.certain && change.answered < later.asked && later.answered < moment);
}
