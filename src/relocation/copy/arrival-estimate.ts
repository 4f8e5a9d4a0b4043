/**
 * How fast a disk comes, when all of it will be here, and whether that is what was promised.
 *
 * The time left is what is still to be fetched, by the rate of what was fetched lately: holes that are
 * skipped are in neither, so a gibibyte of them makes nobody believe that the rest comes as fast. The rate is
 * an exponential mean over `LONG_S` seconds, so that the time left does not jump with every pause of the
 * line, and it begins anew when what people have set changes. Before `TELLING_S` seconds nothing is told.
 *
 * It raises an alarm when nothing has come for `STILL_S` seconds and no reason is known (a pause, a cap of 0,
 * an origin that is away, no room, blocks that cannot be read: those are told elsewhere), or when the time
 * left has become twice what it was, and a minute more.
 */
import { formatClock } from '../../log/numbers.ts';

const SHORT_S = 3;
const LONG_S = 30;
const TELLING_S = 5;
const STILL_S = 30;
const DOUBLE = 2;
const LATE_S = 60;
/** A cap counts that is less than so many times the rate, and is another when it differs by so much. */
const BINDING = 1.5;
const ANOTHER = 1.25;

/** What is so at one moment. */
export interface ArrivalSample {
  /** Bytes that have come over the link, of any kind. */
  readonly fetchedBytes: number;
  /** Bytes that are here, holes included. */
  readonly presentBytes: number;
  /** Bytes that are still to be fetched; null: not known yet. */
  readonly leftBytes: number | null;
  /** It is held up by a pause, a cap of 0 or an origin that is away: the time until then tells nothing. */
  readonly hindered: boolean;
  /** A reason is known why it may stand still: that, or an error that is told. */
  readonly excused: boolean;
  /** What people have set, bit/s: when it changes the past tells nothing. */
  readonly cap: number | null;
}

/** An exponential mean that is right from its first value on. */
class Mean {
  #sum = 0;
  #weight = 0;

  add(value: number, part: number): void {
    this.#sum += part * (value - this.#sum);
    this.#weight += part * (1 - this.#weight);
  }

  get value(): number {
    return this.#weight === 0 ? 0 : this.#sum / this.#weight;
  }
}

export class ArrivalEstimate {
  #now = new Mean();
  #long = new Mean();
  #before: { at: number; sample: ArrivalSample } | null = null;
  #cap = Number.POSITIVE_INFINITY;
  /** Seconds that are in `#long`. */
  #told = 0;
  #secondsLeft: number | null = null;
  /** The least time left that was told since something changed. */
  #promised = Number.POSITIVE_INFINITY;
  /** The alarm of a promise that was broken is over when less than this is left. */
  #lateUntil = 0;
  /** Seconds without anything, for no known reason. */
  #still = 0;
  #alarm: string | null = null;

  /** bit/s, of the last seconds. */
  get rate(): number {
    return Math.round(this.#now.value);
  }

  /** null: it cannot be said. */
  get secondsLeft(): number | null {
    return this.#secondsLeft;
  }

  /** What an administrator should look at, a line; null: all goes as it should. */
  get alarm(): string | null {
    return this.#alarm;
  }

  /** To be called about once a second. @param now ms of a steady clock */
  add(sample: ArrivalSample, now: number): void {
    const before = this.#before;
    this.#before = { at: now, sample };
    if (before === null || now <= before.at) return;
    const seconds = (now - before.at) / 1000;
    const bits = ((sample.fetchedBytes - before.sample.fetchedBytes) * 8) / seconds;
    this.#now.add(bits, 1 - Math.exp(-seconds / SHORT_S));
    const { hindered } = sample;
    if (this.#isNew(sample.cap) || hindered || before.sample.hindered) this.#beginAnew();
    else {
      this.#long.add(bits, 1 - Math.exp(-seconds / LONG_S));
      this.#told += seconds;
    }
    this.#secondsLeft = this.#left(sample);
    this.#watchMovement(sample, before.sample, seconds);
    this.#watchPromise();
  }

  /** Whether a cap is another one, so that it matters; shares are dealt out anew every moment. */
  #isNew(cap: number | null): boolean {
    const [then, now] = [this.#cap, cap ?? Number.POSITIVE_INFINITY];
    const less = Math.min(then, now);
    const binds = less < BINDING * this.#now.value;
    const differs = Math.max(then, now) > less * ANOTHER;
    if (differs || !binds) this.#cap = now;
    return differs && binds;
  }

  #beginAnew(): void {
    this.#long = new Mean();
    this.#told = 0;
    this.#promised = Number.POSITIVE_INFINITY;
    if (this.#still < STILL_S) this.#alarm = null;
  }

  #left({ leftBytes, hindered }: ArrivalSample): number | null {
    if (leftBytes === 0) return 0;
    if (hindered || leftBytes === null || this.#told < TELLING_S || this.#long.value < 1) return null;
    return (leftBytes * 8) / this.#long.value;
  }

  #watchMovement(sample: ArrivalSample, before: ArrivalSample, seconds: number): void {
    const moved = sample.fetchedBytes !== before.fetchedBytes || sample.presentBytes !== before.presentBytes;
    const was = this.#still;
    this.#still = moved || sample.excused ? 0 : this.#still + seconds;
    // Said once, so that it is one alarm.
    if (this.#still >= STILL_S && was < STILL_S)
      this.#alarm = `nothing has come for ${STILL_S} s, and no reason is known`;
    if (this.#still === 0 && was >= STILL_S) {
      this.#alarm = null;
      this.#beginAnew();
      this.#secondsLeft = null;
    }
  }

  #watchPromise(): void {
    const left = this.#secondsLeft;
    // While nothing comes at all that is what counts.
    if (left === null || this.#still > 0) return;
    if (left >= this.#promised * DOUBLE && left >= this.#promised + LATE_S) {
      this.#alarm = `it will take ${formatClock(left)} more, where ${formatClock(this.#promised)} had been left`;
      this.#lateUntil = (this.#promised + left) / 2;
      this.#promised = left;
    } else {
      if (left < this.#lateUntil) this.#alarm = null;
      this.#promised = Math.min(this.#promised, left);
    }
  }
}
