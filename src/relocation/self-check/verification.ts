/**
 * The self-check of one disk: whether, when and with what result it is compared with its origin
 * (comparison.ts does the comparing), and whether the origin may be let go after that (docs/safety.md,
 * "Self-check").
 *
 * - Where every disk is to be compared (`required`), a disk whose blocks are all here stays `relocating`
 *   until a comparison of the whole of it has found no difference.
 * - An administrator may ask for a comparison at any time between takeover and letting go. While it runs the
 *   origin is not let go.
 * - Once a difference has been found the origin is not let go: not until a comparison of the whole disk finds
 *   none, or an administrator accepts what was found. The record says so (`differs`), so this survives a
 *   restart. Nothing is repaired here: which of the two is right, only an administrator can judge.
 */
import type { VerificationStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import type { RecordKeeper } from '../../store/records/record-keeper.ts';
import { Comparison, type ComparisonParts, type Verdict } from './comparison.ts';
import { Findings } from './findings.ts';

/** A comparison that could not be carried out, and is required, begins again after this. */
const AGAIN_MS = 30_000;

export interface VerificationOptions {
  keeper: RecordKeeper;
  /** No origin is let go before a comparison. */
  required: boolean;
  /** Told on each change of state. */
  changed: () => void;
  /** The origin may be let go now, as far as this goes. */
  admitted: () => void;
}

export class Verification {
  readonly #options: VerificationOptions;
  #parts: ComparisonParts | null = null;
  #comparison: Comparison | null = null;
  #running: Promise<void> | null = null;
  #state: VerificationStatus['state'] = 'running';
  /** The comparison covers every block: all of them were present when it began. */
  #whole = false;
  #different: Findings;
  #doubtful: Findings;
  #error: string | null = null;
  /** The origin may be let go: the whole disk was compared, or an administrator does without. */
  #settled = false;
  /** It has been said that the origin may be let go: writes are marked no more. */
  #admitted = false;
  #againTimer: NodeJS.Timeout | null = null;
  #stopped = false;

  constructor(options: VerificationOptions) {
    const { sizeBytes } = options.keeper.record;
    this.#options = options;
    this.#different = new Findings(sizeBytes);
    this.#doubtful = new Findings(sizeBytes);
  }

  /** Blocks are kept from now on: there is something to compare. */
  begin(parts: ComparisonParts): void {
    this.#parts = parts;
  }

  /**
   * May the origin be let go? Where a comparison has to come first, it begins; `admitted` is called when the
   * answer has become another.
   */
  admits(): boolean {
    if (this.#running !== null) return false;
    const { required, keeper } = this.#options;
    if (this.#settled || (!required && !keeper.record.differs)) {
      this.#admitted = true;
      return true;
    }
    const due = this.#comparison === null || this.#state === 'failed' || !this.#whole;
    if (due && this.#state !== 'differs' && this.#againTimer === null && this.#parts !== null) this.#start();
    return false;
  }

  get running(): boolean {
    return this.#running !== null;
  }

  /**
   * Control method `verify`: begins a comparison, if none is running. @throws Error, one line, when there is
   * nothing to compare.
   */
  verify(): void {
    const { name, state, complete, origin } = this.#options.keeper.record;
    if (origin === null)
      throw new Error(`${name} has no origin any more: there is nothing to compare it with`);
    if (state === 'standby')
      throw new Error(
        `${name} is in standby: nothing of its disk is kept here, so there is nothing to compare`,
      );
    if (complete || state === 'retired' || this.#parts === null || this.#admitted || this.#stopped)
      throw new Error(`${name} lets go of its origin already: it is too late to compare it`);
    if (this.#running === null) this.#start();
  }

  /**
   * Control method `accept`: the differences that were found stay as they are, and the origin may go. @throws
   * Error when there are none.
   */
  async accept(): Promise<void> {
    const { keeper, admitted } = this.#options;
    const { name } = keeper.record;
    if (this.#running !== null)
      throw new Error(`${name} is being compared with its origin: wait for the result`);
    if (!keeper.record.differs && this.#state !== 'failed')
      throw new Error(`${name} has no differences from its origin that could be accepted`);
    log.warning(`an administrator accepts the disk as it is (${this.#summary()})`);
    await keeper.update({ differs: false });
    this.#settled = true;
    this.#error = null;
    this.#options.changed();
    admitted();
  }

  /** What an administrator should know, one line; null while all is well. */
  get error(): string | null {
    return this.#error ?? (this.#options.keeper.record.differs && !this.#settled ? this.#held('') : null);
  }

  get status(): VerificationStatus | null {
    const comparison = this.#comparison;
    if (comparison === null) return null;
    return {
      state: this.#running === null ? this.#state : 'running',
      by: comparison.by,
      walkedBytes: comparison.walkedBytes,
      comparedBytes: comparison.comparedBytes,
      writtenBytes: comparison.writtenBytes,
      absentBytes: comparison.absentBytes,
      differentBytes: this.#different.bytes,
      different: this.#different.first,
      doubtfulBytes: this.#doubtful.bytes,
      doubtful: this.#doubtful.first,
      error: this.#state === 'failed' ? this.#error : null,
    };
  }

  /** Ends what is running, without a result. */
  interrupt(reason: string): void {
    this.#comparison?.stop(new Error(reason));
  }

  /** Ends what is running. Resolves when nothing reads the image any more; the caller has closed the link. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#againTimer !== null) clearTimeout(this.#againTimer);
    this.#comparison?.stop(new Error('the export is being stopped'));
    await this.#running;
  }

  #start(): void {
    const { map } = this.#parts!;
    if (this.#againTimer !== null) clearTimeout(this.#againTimer);
    this.#againTimer = null;
    const different = new Findings(map.sizeBytes);
    const doubtful = new Findings(map.sizeBytes);
    const found = (first: number, end: number, verdict: Verdict): void => {
      (verdict === 'differs' ? different : doubtful).add(first, end);
    };
    this.#different = different;
    this.#doubtful = doubtful;
    this.#whole = map.complete;
    this.#comparison = new Comparison(this.#parts!, found);
    log.info('comparing what was not written since the takeover with the origin');
    this.#running = this.#run(this.#comparison).finally(() => {
      this.#running = null;
      this.#options.changed();
      if (!this.#stopped) this.#options.admitted();
    });
    this.#options.changed();
  }

  /** @returns when the result is known, and in the record where that has to know it. */
  async #run(comparison: Comparison): Promise<void> {
    const { keeper } = this.#options;
    try {
      await comparison.run();
      if (this.#different.bytes === 0) {
        if (this.#whole && keeper.record.differs) await keeper.update({ differs: false });
        this.#state = 'passed';
        this.#settled ||= this.#whole;
        this.#error = null;
        log.info(this.#summary());
      } else {
        if (!keeper.record.differs) await keeper.update({ differs: true });
        this.#state = 'differs';
        this.#settled = false;
        this.#error = this.#held(`: ${this.#different.text()}`);
        log.error(this.#error, { id: 'compared-different' });
      }
      if (this.#doubtful.bytes > 0)
        log.warning(
          `differs from its origin where a write before a loss of power may be the cause: ${this.#doubtful.text()}`,
          { id: 'compared-different' },
        );
    } catch (error) {
      if (this.#stopped) return;
      this.#state = 'failed';
      this.#error = `the disk cannot be compared with its origin: ${(error as Error).message}`;
      log.error(this.#error);
      this.#againTimer = setTimeout(() => {
        this.#againTimer = null;
        this.#options.admitted();
      }, AGAIN_MS).unref();
    }
  }

  #held(where: string): string {
    const { name } = this.#options.keeper.record;
    return (
      `the disk differs from its origin${where}; the origin is kept. 'xnbdctl verify ${name}' compares them again, ` +
      `'xnbdctl verify ${name} --accept' takes the disk as it is here`
    );
  }

  #summary(): string {
    if (this.#comparison === null) return 'it differed from its origin';
    const { by, comparedBytes, writtenBytes, absentBytes } = this.#comparison;
    return (
      `compared with the origin by ${by}: ${comparedBytes} bytes equal, ${this.#different.bytes} different, ${this.#doubtful.bytes} in doubt; ` +
      `${writtenBytes} written since the takeover, ${absentBytes} not here yet`
    );
  }
}
