/**
 * One disk's relocation, from the lease to the end of the origin's role: the destination's side of what
 * docs/architecture.md calls the life of a disk, as export/lending/lender.ts is the origin's. The states are
 * drawn in relocation-state.ts.
 *
 * Each step is on disk before it is acted upon, so that a process that dies anywhere goes on from there:
 *
 * | record | means | a restart |
 * |---|---|---|
 * | standby | nothing kept | `standby`: attaches again |
 * | relocating | the origin is fenced, the map exists | `relocating`: opens the map and goes on; the fence is
 * asked for again, which changes nothing |
 * | serving, origin known | complete, the origin may not know | `completing`: tells it to retire |
 * | serving, no origin | a target | `withoutOrigin` |
 * | reclaimed | the origin took the disk back by hand: what is here is void | refused |
 * | retired, origin known | moved on before it was complete | `movedOn`: tells its own origin to retire |
 */
import { fstatSync } from 'node:fs';
import { log } from '../log/log.ts';
import { LeaseVoid } from '../nbd/handshake/client-handshake.ts';
import { removeDurably } from '../store/directory.ts';
import { PresentMap } from '../store/maps/present-map.ts';
import { type ExportRecord, secondsSinceTakeover } from '../store/records/record.ts';
import { type Counters, DiskCopy, sumOf } from './disk-copy.ts';
import { BlockLocks } from './fetch/block-locks.ts';
import { GuestWaits } from './fetch/guest-waits.ts';
import { GuestArrival } from './guest-arrival.ts';
import { completed, fenceAgain } from './lease/commands.ts';
import { giveBack } from './lease/give-back.ts';
import { retireOrigin } from './lease/retire-origin.ts';
import { awaitSourceGone } from './lease/source-gone.ts';
import { openMap, takeOver } from './lease/take-over.ts';
import { endVoid } from './lease/void-lease.ts';
import { countData } from './origin/count-data.ts';
import type { OriginLink } from './origin/link.ts';
import { ProxyDisk } from './proxy/proxy-disk.ts';
import type { RelocationMemory } from './relocation-memory.ts';
import type { RelocationOptions } from './relocation-options.ts';
import { RelocationState } from './relocation-state.ts';
import { Verification } from './self-check/verification.ts';

const ASK_AGAIN_MS = 1000;

export class Relocation {
  readonly disk: ProxyDisk;
  originDataBytes: number | null = null;
  readonly verification: Verification;
  /** Clients' requests that wait for the origin. */
  readonly waits: GuestWaits;
  /** Called on each change of state, and when the origin comes or goes. */
  onChange: (() => void) | null = null;
  /**
   * Resolves when the origin has taken the disk back for good, however late that is asked for: no client may
   * be served any more.
   */
  readonly reclaimed = Promise.withResolvers<null>();
  readonly #options: RelocationOptions;
  readonly #record: Readonly<ExportRecord>;
  /** The counters of earlier processes. */
  readonly #before: Counters;
  readonly #locks = new BlockLocks();
  readonly #state: RelocationState;
  /** Under way in `takingOver`, `completing` or `retiringOrigin`; it ends by itself, or with the link. */
  #step: Promise<void> = Promise.resolve();
  #abandoning: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #link: OriginLink | null;
  #copy: DiskCopy | null = null;
  /** The origin may have been fenced by this process. */
  #askedToFence = false;
  readonly #guest: GuestArrival;
  #error: string | null = null;

  private constructor(options: RelocationOptions) {
    const { link } = options;
    this.#options = options;
    this.#guest = new GuestArrival(options.waitForGuest, options.memory?.guestRuns ?? false);
    this.#askedToFence = options.memory?.askedToFence ?? false;
    this.#record = options.keeper.record;
    this.#before = sumOf(this.#record);
    this.#link = link;
    this.#state = new RelocationState(this.#record, link !== null);
    this.waits = new GuestWaits(options.settings.value('origin-timeout'));
    options.settings.follow('origin-timeout', (seconds) => this.waits.limit(seconds));
    this.disk = new ProxyDisk(options.image, this.#record.complete ? null : link, this.waits);
    this.disk.readInStandby = options.memory?.readInStandby ?? false;
    this.disk.changes.onAcknowledged = () => this.guestRuns();
    this.disk.onFirstChange = () => this.takeOver('the first write of the guest');
    this.verification = new Verification({
      keeper: options.keeper,
      required: options.settings.value('verify'),
      changed: () => this.onChange?.(),
      admitted: () => this.#goOn(),
    });
    if (link !== null) {
      link.onChange = () => this.onChange?.();
      link.onRefused = (refusal) => void (refusal instanceof LeaseVoid && this.#endVoid(refusal.message));
    }
  }

  /**
   * Begins or resumes what the record says.
   * @throws Error, one line, when the map is another disk's.
   */
  static async open(options: RelocationOptions): Promise<Relocation> {
    const relocation = new Relocation(options);
    if (relocation.#state.now === 'standby') await relocation.#begin();
    else if (relocation.#state.now === 'relocating') await relocation.#resume();
    else if (relocation.#state.now === 'completing')
      relocation.#step = relocation.#retireOrigin('completing');
    else relocation.#goOn();
    return relocation;
  }

  /** Bytes of the image that are local. */
  get presentBytes(): number {
    return this.#record.complete ? this.#record.sizeBytes : (this.#copy?.map.presentBytes ?? 0);
  }

  /** The link to the origin, while there is one. */
  get link(): OriginLink | null {
    return this.#link;
  }

  /** What makes the blocks local, from the takeover until the disk is complete. */
  get copy(): DiskCopy | null {
    return this.#record.complete ? null : this.#copy;
  }

  get error(): string | null {
    const refusal = this.#link?.refusal ?? null;
    if (refusal !== null) return `the origin refuses us: ${refusal}`;
    return this.copy?.error ?? this.verification.error ?? this.#error;
  }

  /** The counters of the relocation, with what happened before a restart. */
  get counters(): Counters {
    return this.#copy === null ? this.#before : sumOf(this.#before, this.#copy.counters);
  }

  get givingUp(): boolean {
    return this.#state.now === 'givingUp';
  }

  /** The origin is being fenced. */
  get takingOver(): boolean {
    return this.#state.now === 'takingOver';
  }

  /** Fences the origin and begins to keep blocks. Resolves once that is so. @param why for the log. */
  takeOver(why: string): Promise<void> {
    if (this.#state.now === 'takingOver') return this.#step;
    if (this.disk.phase !== 'standby') return Promise.resolve();
    if (!this.#state.become('standby', 'takingOver'))
      return Promise.reject(new Error(this.error ?? `${this.#record.name} is being given up`));
    this.#step = this.#takeOver(why);
    return this.#step;
  }

  /** The guest runs here. */
  guestRuns(): void {
    this.#guest.runs = true;
    this.#goOn();
  }

  /**
   * Gives the move up: the origin gets its disk back, and what is here is deleted.
   * @throws Error, one line, when that would lose an acknowledged write, or the origin cannot be told.
   */
  abandon(): Promise<void> {
    this.#abandoning ??= this.#abandon().catch((error: unknown) => {
      this.#abandoning = null;
      throw error;
    });
    return this.#abandoning;
  }

  /** We are an origin ourselves, and our holder has every block: our own origin may retire, too. */
  async retire(): Promise<void> {
    this.#copy?.pause();
    this.#goOn();
    await this.#step;
  }

  /** Stops fetching and saves the map. What was present stays so. */
  stop(): Promise<void> {
    this.#state.stop();
    this.#closing ??= this.#close(false);
    return this.#closing;
  }

  /** The same for another process to go on, while the connection to the origin stays open. */
  async leave(): Promise<{ memory: RelocationMemory; connection: number }> {
    this.#state.stop();
    this.#copy?.pause(); // Or it would ask a link that answers at once, again and again.
    const connection = this.#link?.leave() ?? -1;
    this.#closing ??= this.#close(true);
    await this.#closing;
    const { readInStandby, changes } = this.disk;
    const link = connection < 0 ? null : fstatSync(connection, { bigint: true }).ino.toString();
    const { runs: guestRuns } = this.#guest;
    const memory = { acknowledged: changes.acknowledged, readInStandby, guestRuns };
    return { memory: { ...memory, askedToFence: this.#askedToFence, link }, connection };
  }

  /** Standby: waits for the source's guest to be gone, and asks how much data there is. */
  async #begin(): Promise<void> {
    const link = this.#link!;
    if (link.lends) {
      const waits = (): boolean => !this.#state.ended && this.disk.phase === 'standby';
      const takeOver = (): void => void this.takeOver("the end of the source's guest").catch(() => undefined);
      awaitSourceGone(link, waits, takeOver);
    }
    const counted = countData(link, this.#record.sizeBytes).then((bytes) => {
      this.originDataBytes = bytes;
    });
    // The daemon wants the figure with the first status, to see whether there is space for it; an origin that
    // is away must not hold us up.
    if (link.unreachableSince === null) await counted;
  }

  async #takeOver(why: string): Promise<void> {
    const { keeper, stateDir, image } = this.#options;
    log.info(`takeover, by ${why}`, { id: 'takeover' });
    this.#askedToFence = true;
    try {
      const ended = (): boolean => this.#state.ended;
      const map = await takeOver({ link: this.#link!, keeper, image, stateDir, ended });
      this.#error = null;
      this.#state.become('takingOver', 'relocating');
      this.#startCopy(map);
    } catch (error) {
      this.#state.become('takingOver', 'standby');
      this.#hindered(`takeover failed: ${(error as Error).message}`);
      throw error;
    }
    this.onChange?.();
  }

  /** After a restart: the fence is asked for again (it may take its time), and the map is opened. */
  async #resume(): Promise<void> {
    const link = this.#link!;
    const { stateDir, image } = this.#options;
    const map = await openMap(this.#record, image, stateDir);
    // Whether a client wrote before the restart may not be known: then it is taken for granted.
    this.disk.changes.acknowledged = this.#options.memory?.acknowledged ?? true;
    if (link.lends)
      fenceAgain(link, (errno) => this.#hindered(`the origin refuses to be fenced again: error ${errno}`));
    this.#startCopy(map);
  }

  /** From now on blocks are kept. */
  #startCopy(map: PresentMap): void {
    const { image } = this.#options;
    const link = this.#link!;
    this.#copy = new DiskCopy({
      ...this.#options,
      link,
      map,
      locks: this.#locks,
      follow: () => this.#options.settings.value('follow'),
      before: this.#before,
      onComplete: () => this.#goOn(),
      onChange: () => this.onChange?.(),
    });
    this.verification.begin({ link, image, map });
    this.disk.startRelocating(this.#copy.parts);
    if (this.#state.now === 'relocating') this.#copy.start();
  }

  /** Takes the next step that is due without being asked for, if one is; to be called when one may be. */
  #goOn(): void {
    if (this.#record.state === 'retired') this.#state.become('relocating', 'movedOn');
    if (this.#state.now === 'movedOn') this.#step = this.#retireOrigin('movedOn');
    if (this.#state.now !== 'relocating' || this.#copy?.isComplete !== true) return;
    if (!this.#guest.admits(this.disk.readInStandby, () => this.guestRuns())) return;
    if (this.verification.admits() && this.#state.become('relocating', 'completing'))
      this.#step = this.#complete();
  }

  /** Every block is present: durably so, then we are a target, then the origin may go. */
  async #complete(): Promise<void> {
    try {
      this.#copy!.stop();
      await completed((done) => this.#copy!.map.flush(done));
      // The next host may be fencing the disk right now.
      await this.#options.keeper.update(({ state }) => ({
        ...this.counters,
        complete: true,
        state: state === 'relocating' ? 'serving' : state,
        relocationSeconds: secondsSinceTakeover(this.#record),
      }));
    } catch (error) {
      this.#hindered(`complete, but that cannot be put on disk: ${(error as Error).message}; trying again`);
      this.#state.become('completing', 'relocating');
      setTimeout(() => this.#goOn(), ASK_AGAIN_MS);
      return;
    }
    this.#error = null;
    this.disk.completed();
    this.#options.image.overcome();
    log.info(`complete after ${this.#record.relocationSeconds.toFixed(1)} s; letting go of the origin`, {
      id: 'disk-complete',
    });
    this.onChange?.();
    await this.#retireOrigin('completing');
  }

  /** Tells the origin to retire, for as long as it takes; an origin that is there no more has been told. */
  async #retireOrigin(from: 'completing' | 'movedOn'): Promise<void> {
    if (this.#record.differs || this.verification.running || !this.#state.become(from, 'retiringOrigin'))
      return;
    const { keeper, stateDir } = this.#options;
    try {
      await retireOrigin({
        link: this.#link!,
        keeper,
        stateDir,
        closeMap: async () => await this.#copy?.close(),
        stopped: () => this.#state.ended,
        hindered: (reason) => this.#hindered(reason),
      });
    } catch (error) {
      // The next start tries again.
      this.#hindered(`the origin is let go, but that cannot be put on disk: ${(error as Error).message}`);
      return;
    }
    if (!this.#state.become('retiringOrigin', 'withoutOrigin')) return;
    this.#link = null;
    this.#error = null;
    this.onChange?.();
  }

  async #abandon(): Promise<void> {
    const { name, state, imageCreated } = this.#record;
    const { keeper, image, stateDir } = this.#options;
    // A takeover that has begun ends first, either way.
    if (this.#state.now === 'takingOver') await this.#step.catch(() => undefined);
    const from = this.#state.now;
    const may = from === 'standby' || from === 'relocating' || from === 'void';
    if (!may || !this.disk.changes.close()) {
      throw new Error(
        `${name} is ${state} and holds writes that exist nowhere else: it cannot be abandoned; let it complete`,
      );
    }
    this.#state.become(from, 'givingUp');
    this.verification.interrupt('the move is being given up');
    const link = this.#link!;
    try {
      if (link.lends && from !== 'void') await giveBack({ keeper, link, askedToFence: this.#askedToFence });
    } catch (error) {
      this.disk.changes.open();
      this.#state.become('givingUp', from);
      this.#goOn();
      throw error;
    }
    await this.stop();
    // Before the record goes: the next process knows by it whose the image is.
    if (imageCreated) await removeDurably(image.path);
    await PresentMap.remove(stateDir);
    log.info('abandoned; the origin has its disk back', { id: 'given-back' });
  }

  /** Our lease is void: what was kept is of no use, and no client is served from it. */
  async #endVoid(reason: string): Promise<void> {
    if (!this.#state.becomeVoid()) return;
    this.#error = reason;
    this.#copy?.pause();
    this.#link?.close();
    void this.verification.stop();
    const takenOver = this.#record.takenOverAt !== null;
    if (takenOver) this.reclaimed.resolve(null);
    await endVoid(this.#options.keeper, takenOver, reason);
    this.onChange?.();
  }

  async #close(leaveLink: boolean): Promise<void> {
    this.#copy?.pause();
    if (!leaveLink) this.#link?.close();
    this.#guest.close();
    // Without the link nothing new begins. What is being written to the image or the record ends before they
    // are closed.
    await this.#step.catch(() => undefined);
    await this.verification.stop();
    await this.#locks.whenIdle();
    this.#copy?.stop();
    if (this.#copy !== null && !this.#record.complete) {
      await this.#copy.checkpoint();
      await this.#options.keeper.update(this.counters);
    }
    await this.#copy?.close();
  }

  /** Says once, in the log and the status, what hinders. */
  #hindered(reason: string): void {
    if (this.#error !== reason) log.error(reason);
    this.#error = reason;
    this.onChange?.();
  }
}
