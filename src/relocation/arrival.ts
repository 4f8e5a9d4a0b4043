/**
 * What is told of a disk that comes: its rate, what is still only at the origin, and the time left, now and
 * then in the log; and an alarm when it does not come as it should (copy/arrival-estimate.ts).
 */

import { log } from '../log/log.ts';
import { formatBytes, formatClock, formatRate, formatShare } from '../log/numbers.ts';
import { ArrivalEstimate, type ArrivalSample } from './copy/arrival-estimate.ts';

const SAMPLE_MS = 1000;
/** The log hears of it after so many seconds, then after twice as many, up to the second. */
const FIRST_WORD_S = 60;
const RAREST_WORD_S = 1800;

export interface ArrivalOptions {
  /** Where the blocks are that are not here, for messages. */
  origin: string;
  sizeBytes: number;
  sample: () => ArrivalSample;
  /** bit/s since the takeover. */
  averageRate: () => number;
  /** An alarm has been raised, or is over. */
  onAlarm: () => void;
}

export class Arrival {
  readonly estimate = new ArrivalEstimate();
  readonly #options: ArrivalOptions;
  #timer: NodeJS.Timeout | undefined;
  #alarm: string | null = null;
  /** Seconds until the next word in the log, and from that one to the one after it. */
  #untilWord = FIRST_WORD_S;
  #pause = FIRST_WORD_S;

  constructor(options: ArrivalOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), SAMPLE_MS).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { sample: take, onAlarm } = this.#options;
    const sample = take();
    this.estimate.add(sample, performance.now());
    this.#untilWord -= SAMPLE_MS / 1000;
    if (this.#untilWord <= 0) {
      log.info(this.#line(sample));
      this.#pause = Math.min(this.#pause * 2, RAREST_WORD_S);
      this.#untilWord = this.#pause;
    }
    const { alarm } = this.estimate;
    if (alarm === this.#alarm) return;
    if (alarm === null) log.info('it comes as it should again', { id: 'arrival-well' });
    else log.warning(`${alarm}; ${this.#line(sample)}`, { id: 'arrival-alarm' });
    this.#alarm = alarm;
    onAlarm();
  }

  #line({ leftBytes, presentBytes }: ArrivalSample): string {
    const { origin, sizeBytes, averageRate } = this.#options;
    const { rate, secondsLeft } = this.estimate;
    const left = leftBytes ?? sizeBytes - presentBytes;
    const time = secondsLeft === null ? 'the time left is not known' : `${formatClock(secondsLeft)} left`;
    return (
      `${formatShare(left, sizeBytes)} (${formatBytes(left)}) is only at ${origin} still, ${time}; ` +
      `${formatRate(rate)} now, ${formatRate(averageRate())} on average`
    );
  }
}
