/**
 * What each host has promised so far, by the moment: the fence, the lease, the identity. What a crash leaves
 * is held against it (check-state.ts).
 */
import type { ExportRecord } from '../../../src/store/records/record.ts';
import type { Clock } from '../files/trace.ts';
import type { Source } from './hosts.ts';

/** At the source. While a change is being made either is right. */
export type SourceState = 'serving' | 'fencing' | 'fenced' | 'giving back' | 'retiring' | 'retired';

export type DestinationState = 'absent' | 'starting' | 'standby' | 'taken over' | 'abandoning';

interface Mark {
  moment: number;
  source: SourceState;
  destination: DestinationState;
  lease: string | null;
}

export class Marks {
  readonly #clock: Clock;
  /** In order. */
  #marks: Mark[] = [{ moment: -1, source: 'serving', destination: 'absent', lease: null }];
  #identity: { uuid: string; since: number } | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get source(): SourceState {
    return this.#marks.at(-1)!.source;
  }

  get destination(): DestinationState {
    return this.#marks.at(-1)!.destination;
  }

  /** What was promised at a moment. */
  at(moment: number): Mark {
    return this.#marks.findLast((mark) => mark.moment < moment)!;
  }

  /** The disk's identity; null before the source has been open for the first time. */
  uuidAt(moment: number): string | null {
    return this.#identity !== null && this.#identity.since < moment ? this.#identity.uuid : null;
  }

  /** Nothing was being changed. */
  settledAt(moment: number): boolean {
    const { source, destination } = this.at(moment);
    return (
      ['serving', 'fenced', 'retired'].includes(source) &&
      ['absent', 'starting', 'standby', 'taken over'].includes(destination)
    );
  }

  /** A crash: what was promised after it has not been. */
  crashedAt(moment: number): void {
    this.#marks = this.#marks.filter((mark) => mark.moment < moment);
    if (this.uuidAt(moment) === null) this.#identity = null;
  }

  /** Follows what the source answers to its lease holder, at the moment at which it does. */
  watch({ running, served }: Source, onFenced: () => void): void {
    const { lender } = running.export;
    this.#identity ??= { uuid: served.keeper.record.uuid, since: this.#clock.tick() };
    const follow = (name: 'takeover' | 'giveBack' | 'retire', during: SourceState, after: SourceState) => {
      const call = lender[name].bind(lender);
      lender[name] = async (link) => {
        const before = this.source;
        // Asked again by a destination that was started again.
        const certain = before === after;
        if (!certain) this.#source(during);
        const errno = await call(link);
        if (errno === 0) {
          if (name === 'takeover' && !certain) onFenced();
          this.#source(after);
        } else if (!certain) this.#source(before);
        return errno;
      };
    };
    follow('takeover', 'fencing', 'fenced');
    follow('giveBack', 'giving back', 'serving');
    follow('retire', 'retiring', 'retired');
  }

  destinationBegins(): void {
    if (this.destination === 'absent') this.#destination('starting', null);
  }

  destinationReady({ origin }: Readonly<ExportRecord>): void {
    if (this.destination === 'starting') this.#destination('standby', origin!.lease);
  }

  takenOver(): void {
    if (this.destination === 'starting' || this.destination === 'standby') this.#destination('taken over');
  }

  abandons(): void {
    this.#before = this.destination;
    this.#destination('abandoning');
  }

  #before: DestinationState = 'absent';

  staysAfterAll(): void {
    this.#destination(this.#before);
  }

  abandoned(): void {
    this.#destination('absent', null);
  }

  #source(source: SourceState): void {
    this.#marks.push({ ...this.#marks.at(-1)!, moment: this.#clock.tick(), source });
  }

  #destination(destination: DestinationState, lease = this.#marks.at(-1)!.lease): void {
    this.#marks.push({ ...this.#marks.at(-1)!, moment: this.#clock.tick(), destination, lease });
  }
}
