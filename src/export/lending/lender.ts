/**
 * The origin's side of a move (docs/protocol.md, docs/architecture.md "life of a disk").
 *
 *                 attach                TAKEOVER              fence durable              RETIRE
 *     serving ------------> lent ------------------> fencing --------------> fenced ------------> retired
 *        ^                   |                          |                       |
 *        +-- last link gone -+      flush failed,       |                       |
 *        |   or GIVE_BACK           link gone: back ----+                       |
 *        +------------------------ GIVE_BACK, reclaim --------------------------+
 *
 * From `fencing` on no write, trim or zero request is let in, from any client, so that two hosts never both
 * accept writes. Those that were let in before are waited for, the image is synced, the record says `fenced`
 * on disk, and only then is TAKEOVER answered. While `fenced` the lease holder alone reads. What is on disk
 * (`fenced`, `retired`) survives a restart; a lease that is merely attached does not.
 *
 * Two things make a lease void for good. `reclaim`: an administrator says that the holder is lost. And a new
 * start of a guest here while the disk is lent (`epoch` counts them): what would have arrived at the holder
 * is a guest that is no more, and its late takeover would fence the disk under the new one. A holder that
 * comes back with such a lease is told so, and knows that its copy is void.
 *
 * A link that breaks before the fence is durable ends the lease: the holder cannot have seen an answer, so it
 * has kept nothing.
 */
import { log } from '../../log/log.ts';
import { Recurring } from '../../log/recurring.ts';
import { Errno, OptionReply } from '../../nbd/constants.ts';
import type { Attached, AttachRequest } from '../../nbd/handshake/attach.ts';
import type { Refusal } from '../../nbd/handshake/server-handshake.ts';
import type { Completion } from '../../store/completion.ts';
import { leaseTag } from '../../store/records/lease-tag.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import type { RecordChange } from '../../store/records/record-keeper.ts';
import { takenBack, voidedWith } from '../../store/records/void-leases.ts';
import { type Access, accessFault, type LendState, whyNotAttached } from './admission.ts';
import { Lease, type LeaseLink } from './lease.ts';
import type { LendingMemory } from './lending-memory.ts';
import { SourceWatch } from './source-watch.ts';
import { TakeoverGuard } from './takeover-guard.ts';
import { Transitions } from './transitions.ts';
import { WrittenState } from './written-state.ts';

/** A proxy that is refused asks again, for as long as it takes. */
const refusals = new Recurring('warning');
const troubles = new Recurring('error', undefined, { id: 'not-fenced' });

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
  /** Clients of this host: the source's guest, while a disk is lent. */
  localClients: () => number;
  /**
   * `disconnect`: the orderly disconnect of the last client means that the source's guest is gone; `told`:
   * only `sourceGone()`.
   */
  sourceGone: 'disconnect' | 'told';
  /** The holder has every block. A proxy lets go of its own origin then. */
  onRetired: () => void;
  changed: () => void;
}

export class Lender {
  state: LendState;
  readonly #options: LenderOptions;
  readonly #watch: SourceWatch;
  /** Used where libvirt tells of the source's guest (`told`): by hand no program does. */
  readonly guard: TakeoverGuard;
  #lease: Lease | null;
  /** The lease that was in force when our own origin took the disk back. */
  #voided: string | null = null;
  /** While the writes in flight are waited for: gives that up. */
  #giveFenceUp: ((errno: number) => void) | null = null;
  readonly transitions = new Transitions();
  readonly #written: WrittenState;

  constructor(options: LenderOptions) {
    const { state, lease, leaseIdentity } = options.record;
    this.#options = options;
    this.#written = new WrittenState(options.persist, () => options.baseState());
    this.#watch = new SourceWatch(options.sourceGone === 'disconnect');
    this.guard = new TakeoverGuard(options.localClients);
    this.state = state === 'fenced' || state === 'retired' || state === 'reclaimed' ? state : 'serving';
    this.#lease = this.state === 'fenced' && lease !== null ? new Lease(lease, leaseIdentity) : null;
  }

  /** What the next process needs, once no transition is under way. */
  get memory(): LendingMemory {
    return {
      state: this.state,
      lease: this.#lease?.memory ?? null,
      voided: this.#voided,
      watch: this.#watch.memory,
      guardOpen: this.guard.isOpen,
    };
  }

  /** Goes on as an earlier process stopped, unless the record says other. @param links of the lease */
  remember({ state, lease, voided, watch, guardOpen }: LendingMemory, links: readonly LeaseLink[]): void {
    if (state !== this.state && !(state === 'lent' && this.state === 'serving')) return;
    this.state = state;
    this.#lease = lease === null ? null : Lease.remembered(lease, links);
    this.#voided = voided;
    this.#watch.remember(watch);
    if (guardOpen) this.guard.open();
  }

  /** The connection is one of the lease in force. */
  holds(link: LeaseLink): boolean {
    return this.#lease?.has(link) === true;
  }

  /** uuid of the lease, or null. */
  get lease(): string | null {
    return this.#lease?.uuid ?? null;
  }

  /** Connections of the lease, now. */
  get links(): number {
    return this.#lease?.links ?? 0;
  }

  /** @returns errno for a request of a connection, 0 when it may go on. */
  refuses(access: Access, link: LeaseLink): number {
    const holds = this.holds(link);
    if (holds && access === 'read') this.heard(link);
    return accessFault(this.state, access, { holds, remote: link.peer !== null });
  }

  /** A connection has asked for something. */
  heard(link: LeaseLink): void {
    this.#lease?.heard(link);
  }

  /** Why a new connection is turned away, or undefined. */
  refusesClients(): Refusal | undefined {
    if (this.state === 'retired') return this.#refusal('is retired: its disk has moved to another host');
    if (this.state === 'reclaimed') return this.#refusal('is void: the disk was reclaimed by its origin');
    return undefined;
  }

  /** Attaches a connection with its lease, or says why not. */
  attach(link: LeaseLink, request: AttachRequest): Attached | Refusal {
    const { record } = this.#options;
    const identity = link.peer?.identity ?? '';
    const { state } = this;
    const refusal = whyNotAttached(
      record,
      { state, lentTo: this.#lease, voided: this.#voided },
      request,
      identity,
    );
    if (refusal !== undefined) {
      const who = link.peer?.who ?? 'a client of this host';
      // It comes again every few seconds, each time from another port.
      refusals.met(`${who} may not attach: ${refusal.text}`, {
        kind: `${link.peer?.identity ?? ''}: ${refusal.text}`,
      });
      return refusal;
    }
    if (this.#lease === null) {
      const reason = this.#options.canLend();
      if (reason !== null) return this.#refusal(`cannot be lent: ${reason}`);
      this.#lease = new Lease(request.lease, identity === '' ? null : identity);
      this.guard.reset(this.#watch.reset());
      this.#become('lent');
    }
    this.#lease.add(link, request.holder ?? '');
    const { uuid, generation, sizeBytes } = record;
    return { uuid, generation, fenced: this.state === 'fenced', size: sizeBytes, epoch: record.epoch };
  }

  /** A connection is gone, attached or not. */
  detach(link: LeaseLink): void {
    if (this.#lease?.remove(link) !== true) return;
    this.#watch.forget(link);
    this.guard.forget(link);
    if (this.links > 0) return;
    if (this.state === 'lent') this.#endLease('serving');
    else this.#giveFenceUp?.(Errno.ESHUTDOWN);
  }

  /** TAKEOVER. @returns errno */
  async takeover(link: LeaseLink): Promise<number> {
    const guarded = this.#options.sourceGone === 'told' && this.state === 'lent' && this.holds(link);
    const errno = guarded ? await this.guard.passes(link) : 0;
    return errno === 0 ? this.#fence(link) : errno;
  }

  #fence(link: LeaseLink): Promise<number> {
    return this.transitions.take(async () => {
      const lease = this.#lease;
      if (lease?.has(link) !== true) return Errno.EINVAL;
      if (this.state === 'fenced') return 0;
      const { generation } = this.#options.record;
      this.#become('fencing');
      const errno = await this.#quiesced();
      if (errno !== 0) {
        const gone = lease.links === 0;
        troubles.met(`not fenced: ${gone ? 'the lease holder is gone' : `flush failed (${errno})`}`);
        this.#unfence();
        return errno;
      }
      try {
        const movedTo = { host: lease.holder, at: new Date().toISOString() };
        await this.#options.persist({
          state: 'fenced',
          lease: lease.uuid,
          leaseIdentity: lease.identity,
          movedTo,
        });
      } catch (error) {
        return this.#fenceNotWritten(error as Error);
      }
      const whom = `${leaseTag(lease.uuid)}${lease.holder === '' ? '' : ` of ${lease.holder}`}`;
      log.info(`fenced at generation ${generation}, for lease ${whom}`, { id: 'fenced', peer: lease.holder });
      this.#become('fenced');
      return 0;
    });
  }

  /** GIVE_BACK. @returns errno */
  giveBack(link: LeaseLink): Promise<number> {
    return this.transitions.take(() =>
      this.holds(link) ? this.#liftFence(link) : Promise.resolve(Errno.EINVAL),
    );
  }

  /** RETIRE. @returns errno */
  retire(link: LeaseLink): Promise<number> {
    return this.transitions.take(async () => {
      if (!this.holds(link) || this.state !== 'fenced') return Errno.EINVAL;
      const { localClients } = this.#options;
      if (link.peer !== null && localClients() > 0) {
        refusals.met(
          `not retired while a client of this host is connected: end the guest that has moved away`,
        );
        return Errno.EIO;
      }
      const errno = await this.#written.put({ state: 'retired', lease: null, leaseIdentity: null });
      if (errno !== 0) return errno;
      log.info('retired, its lease holder has every block', { id: 'disk-left' });
      this.#endLease('retired');
      this.#options.onRetired();
      return 0;
    });
  }

  /**
   * An administrator takes the disk back from a holder that is lost. Its generation grows beyond the
   * holder's, and the lease is void.
   * @throws Error, one line, when there is nothing to take back, or the holder is alive.
   */
  reclaim(): Promise<void> {
    return this.transitions.take(async () => {
      const { name, movedTo } = this.#options.record;
      if (this.state !== 'fenced') throw new Error(`${name} is ${this.state}: there is nothing to reclaim`);
      const alive = this.#lease!.aliveSince;
      if (alive !== null)
        throw new Error(
          `${name} is not lost: ${movedTo?.host || 'its holder'} was heard ${alive.toFixed(1)} s ago; end it there first`,
        );
      const tag = leaseTag(this.#lease!.uuid);
      await this.#options.persist((record) => takenBack(record, this.#written.unfenced(record).state!));
      log.warning(
        `reclaimed from ${movedTo?.host || 'its holder'} (lease ${tag}), generation ${this.#options.record.generation} now`,
        { id: 'reclaimed' },
      );
      this.#lease?.cut();
      this.#endLease('serving');
    });
  }

  /**
   * A guest is about to be started on the disk here: no arrival of an earlier one elsewhere may take the disk
   * over from now on.
   * @throws Error, one line, when the disk is not to be had here.
   */
  newGuest(): Promise<void> {
    return this.transitions.take(async () => {
      const { name } = this.#options.record;
      if (this.state !== 'serving' && this.state !== 'lent')
        throw new Error(`${name} is ${this.state}: no guest can be started on it here`);
      await this.#options.persist(({ epoch }) => ({ epoch: epoch + 1 }));
      if (this.state === 'serving') return;
      log.warning(`a guest is started here while it is lent: lease ${leaseTag(this.lease)} is void`);
      this.#lease?.cut();
      this.#endLease('serving');
    });
  }

  /**
   * Our own origin has taken the disk back: clients of this copy are stopped, and a lease holder is told when
   * it comes back. The record says so already.
   */
  becomeReclaimed(): void {
    const { lease } = this;
    this.#voided = lease;
    if (lease !== null) void this.#written.put((record) => ({ voidLeases: voidedWith(record, lease) }));
    this.#lease?.cut();
    this.#endLease('reclaimed');
  }

  /** WAIT_GONE: `done` is completed once the source's client is gone. */
  waitGone(link: LeaseLink, done: Completion): void {
    if (this.holds(link)) this.#watch.wait(link, done);
    else done.complete(Errno.EINVAL);
  }

  /** The source's guest is gone: told now, or when the holder's link is back. @returns false: not now */
  sourceGone(): boolean {
    this.#watch.ended();
    if (this.sourceLeaves()) this.#watch.gone();
    return this.#lease !== null;
  }

  /** A client without a lease has come. */
  clientCame(): void {
    this.#watch.began();
  }

  /** libvirt migrates the source's guest away. @returns false when the disk is not lent */
  sourceLeaves(): boolean {
    if (this.#lease === null) return false;
    this.guard.open();
    return true;
  }

  /** A client without a lease has left. */
  clientLeft(orderly: boolean, remaining: number): void {
    if (this.#lease === null) return;
    this.#watch.clientLeft(orderly, remaining);
    this.guard.clientLeft();
  }

  /** Answers holders that wait for an event that will not come any more. */
  stop(): void {
    this.#watch.stop();
    this.guard.stop();
  }

  /** A write in flight may never end; then the wait for it ends with the last link. @returns errno */
  async #quiesced(): Promise<number> {
    const { promise: givenUp, resolve } = Promise.withResolvers<number>();
    this.#giveFenceUp = resolve;
    if (this.links === 0) resolve(Errno.ESHUTDOWN);
    const errno = await Promise.race([givenUp, this.#options.quiesce()]);
    this.#giveFenceUp = null;
    return errno;
  }

  async #liftFence(asking: LeaseLink): Promise<number> {
    if (this.state === 'fenced') {
      const errno = await this.#written.put(this.#written.unfenced);
      if (errno !== 0) return errno;
      log.info('given back', { id: 'given-back' });
    }
    // The other connections of the lease read what may change from now on.
    this.#lease?.cut(asking);
    this.#endLease('serving');
    return 0;
  }

  /** The disk may or may not say `fenced` now: it must not, because no holder was told. */
  async #fenceNotWritten(error: Error): Promise<number> {
    troubles.met(`not fenced, its record cannot be written: ${error.message}`);
    await this.#written.put(this.#written.unfenced);
    this.#unfence();
    return Errno.EIO;
  }

  #unfence(): void {
    if (this.links === 0) this.#endLease('serving');
    else this.#become('lent');
  }

  #endLease(state: 'serving' | 'retired' | 'reclaimed'): void {
    this.#lease = null;
    this.#watch.stop();
    this.guard.stop();
    this.#become(state);
  }

  #become(state: LendState): void {
    // A fence that was being made when our own origin took the disk back has its end, and changes nothing.
    if (this.state === 'reclaimed') return;
    this.state = state;
    this.#options.changed();
  }

  #refusal(why: string): Refusal {
    return { type: OptionReply.ERR_POLICY, text: `export '${this.#options.record.name}' ${why}` };
  }
}
