/**
 * The origin's side of a move (docs/protocol.md, docs/architecture.md "life of a disk").
 *
 *                 attach                TAKEOVER              fence durable              RETIRE
 *     serving ------------> lent ------------------> fencing --------------> fenced ------------> retired
 *        ^                   |                          |                       |
 *        +-- last link gone -+      flush failed,       |                       |
 *        |   or GIVE_BACK           link gone: back ----+                       |
 *        +--------------------------- GIVE_BACK --------------------------------+
 *
 * From `fencing` on no write, trim or zero request is let in, whoever asks, so that two hosts never both accept writes. Those that
 * were let in before are waited for, the image is synced, the record says `fenced` on disk, and only then is TAKEOVER answered. While
 * `fenced` the lease holder alone reads. What is on disk (`fenced`, `retired`) survives a restart; a lease that is merely attached does not.
 *
 * A link that breaks before the fence is durable ends the lease: the holder cannot have seen an answer, so it has kept nothing.
 */
import { log } from '../log/log.ts';
import type { Attached, AttachRequest } from '../nbd/attach.ts';
import { Errno, OptionReply } from '../nbd/constants.ts';
import type { Refusal } from '../nbd/server-handshake.ts';
import type { Completion } from '../store/completion.ts';
import type { ExportRecord } from '../store/record.ts';
import type { RecordChange } from './record-keeper.ts';
import { SourceWatch } from './source-watch.ts';

export type LendState = 'serving' | 'lent' | 'fencing' | 'fenced' | 'retired';

/** What a request wants of the disk. */
export type Access = 'read' | 'write' | 'flush';

export interface LenderOptions {
  /** Read here, changed through `persist` alone. */
  record: Readonly<ExportRecord>;
  /** Changes the record; when it resolves the change is durable. */
  persist: (change: RecordChange) => Promise<void>;
  /** What the record's state is when the disk is not fenced: `relocating` for a proxy that misses blocks. */
  baseState: () => 'serving' | 'standby' | 'relocating';
  /** Why this disk cannot be lent now, or null. */
  canLend: () => string | null;
  /** Waits for the writes in flight, then flushes. @returns errno */
  quiesce: () => Promise<number>;
  /** `disconnect`: the orderly disconnect of the last client means that the source's guest is gone; `told`: only `sourceGone()`. */
  sourceGone: 'disconnect' | 'told';
  /** The holder has every block. A proxy lets go of its own origin then. */
  onRetired: () => void;
  changed: () => void;
}

export class Lender {
  state: LendState;
  readonly #options: LenderOptions;
  readonly #watch: SourceWatch;
  #lease: string | null;
  /** The connections of the lease. */
  readonly #links = new Set<object>();
  /** One transition at a time. */
  #transition: Promise<unknown> = Promise.resolve();

  constructor(options: LenderOptions) {
    const { state, lease } = options.record;
    this.#options = options;
    this.#watch = new SourceWatch(options.sourceGone === 'disconnect');
    this.state = state === 'fenced' || state === 'retired' ? state : 'serving';
    this.#lease = this.state === 'fenced' ? lease : null;
  }

  /** uuid of the lease, or null. */
  get lease(): string | null {
    return this.#lease;
  }

  /** Connections of the lease, now. */
  get links(): number {
    return this.#links.size;
  }

  /** @returns errno for a request of a connection, 0 when it may go on. */
  refuses(access: Access, link: object): number {
    switch (this.state) {
      case 'serving':
        return 0;
      case 'lent':
        // The destination never changes the origin's image.
        return access === 'write' && this.#links.has(link) ? Errno.EPERM : 0;
      case 'fencing':
        return access === 'write' ? Errno.EPERM : 0;
      case 'fenced':
        return access === 'flush' || (access === 'read' && this.#links.has(link)) ? 0 : Errno.EPERM;
      case 'retired':
        return Errno.ESHUTDOWN;
    }
  }

  /** Why a new connection is turned away, or undefined. */
  refusesClients(): Refusal | undefined {
    if (this.state !== 'retired') return undefined;
    return this.#refusal('is retired: its disk has moved to another host');
  }

  /** Attaches a connection with its lease, or says why not. */
  attach(link: object, request: AttachRequest): Attached | Refusal {
    const { record } = this.#options;
    const retired = this.refusesClients();
    if (retired !== undefined) return { ...retired, type: OptionReply.XNBD_ERR_RETIRED };
    if (request.uuid !== null && request.uuid !== record.uuid) {
      return this.#refusal(`has uuid ${record.uuid}, not ${request.uuid}: it is another disk`);
    }
    if (request.generation !== 0 && request.generation !== record.generation) {
      return this.#refusal(`is of generation ${record.generation}, not ${request.generation}`);
    }
    if (this.#lease !== null && this.#lease !== request.lease) {
      return this.#refusal(`is ${this.state} already, to lease ${this.#lease}`);
    }
    if (this.#lease === null) {
      const reason = this.#options.canLend();
      if (reason !== null) return this.#refusal(`cannot be lent: ${reason}`);
      this.#lease = request.lease;
      this.#watch.reset();
      this.#become('lent');
    }
    this.#links.add(link);
    const { uuid, generation, sizeBytes } = record;
    return { uuid, generation, fenced: this.state === 'fenced', size: sizeBytes };
  }

  /** A connection is gone, attached or not. */
  detach(link: object): void {
    if (!this.#links.delete(link)) return;
    this.#watch.forget(link);
    if (this.#links.size === 0 && this.state === 'lent') this.#endLease('serving');
  }

  /** TAKEOVER. @returns errno */
  takeover(link: object): Promise<number> {
    return this.#inTurn(async () => {
      if (!this.#links.has(link)) return Errno.EINVAL;
      if (this.state === 'fenced') return 0;
      const { name, generation } = this.#options.record;
      this.#become('fencing');
      const errno = await this.#options.quiesce();
      if (errno !== 0 || this.#links.size === 0) {
        log.error(
          `export ${name}: not fenced: ${errno === 0 ? 'the lease holder is gone' : `flush failed (${errno})`}`,
        );
        this.#unfence();
        return errno === 0 ? Errno.ESHUTDOWN : errno;
      }
      try {
        await this.#options.persist({ state: 'fenced', lease: this.#lease });
      } catch (error) {
        return this.#fenceNotWritten(error as Error);
      }
      log.info(`export ${name}: fenced at generation ${generation}, for lease ${this.#lease}`);
      this.#become('fenced');
      return 0;
    });
  }

  /** GIVE_BACK. @returns errno */
  giveBack(link: object): Promise<number> {
    return this.#inTurn(() => (this.#links.has(link) ? this.#liftFence() : Promise.resolve(Errno.EINVAL)));
  }

  /** RETIRE. @returns errno */
  retire(link: object): Promise<number> {
    return this.#inTurn(async () => {
      if (!this.#links.has(link) || this.state !== 'fenced') return Errno.EINVAL;
      const errno = await this.#persist({ state: 'retired', lease: null });
      if (errno !== 0) return errno;
      log.info(`export ${this.#options.record.name}: retired, its lease holder has every block`);
      this.#endLease('retired');
      this.#options.onRetired();
      return 0;
    });
  }

  /** WAIT_GONE: `done` is completed once the source's client is gone. */
  waitGone(link: object, done: Completion): void {
    if (this.#links.has(link)) this.#watch.wait(link, done);
    else done.complete(Errno.EINVAL);
  }

  /** The source's guest is gone. @returns false when there is no lease holder to be told */
  sourceGone(): boolean {
    if (this.#lease === null) return false;
    this.#watch.gone();
    return true;
  }

  /** A client without a lease has left. */
  clientLeft(orderly: boolean, remaining: number): void {
    if (this.#lease !== null) this.#watch.clientLeft(orderly, remaining);
  }

  /** Answers those who wait for an event that will not come any more. */
  stop(): void {
    this.#watch.stop();
  }

  async #liftFence(): Promise<number> {
    if (this.state === 'fenced') {
      const errno = await this.#persist(this.#unfenced);
      if (errno !== 0) return errno;
      log.info(`export ${this.#options.record.name}: given back`);
    }
    this.#endLease('serving');
    return 0;
  }

  /** The disk may or may not say `fenced` now: it must not, as nobody was told. */
  async #fenceNotWritten(error: Error): Promise<number> {
    log.error(
      `export ${this.#options.record.name}: not fenced, its record cannot be written: ${error.message}`,
    );
    await this.#persist(this.#unfenced);
    this.#unfence();
    return Errno.EIO;
  }

  #unfence(): void {
    if (this.#links.size === 0) this.#endLease('serving');
    else this.#become('lent');
  }

  /** A disk may have become complete while the change waited for its turn. */
  readonly #unfenced = ({ complete }: Readonly<ExportRecord>): Partial<ExportRecord> => ({
    state: complete ? 'serving' : this.#options.baseState(),
    lease: null,
  });

  async #persist(change: RecordChange): Promise<number> {
    try {
      await this.#options.persist(change);
      return 0;
    } catch (error) {
      log.error(
        `export ${this.#options.record.name}: its record cannot be written: ${(error as Error).message}`,
      );
      return Errno.EIO;
    }
  }

  #endLease(state: 'serving' | 'retired'): void {
    this.#lease = null;
    this.#links.clear();
    this.#watch.stop();
    this.#become(state);
  }

  #become(state: LendState): void {
    this.state = state;
    this.#options.changed();
  }

  #inTurn(step: () => Promise<number>): Promise<number> {
    const result = this.#transition.then(step);
    this.#transition = result.catch(() => undefined);
    return result;
  }

  #refusal(why: string): Refusal {
    return { type: OptionReply.ERR_POLICY, text: `export '${this.#options.record.name}' ${why}` };
  }
}
