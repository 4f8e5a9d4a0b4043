/**
 * One disk's relocation, from the lease to the end of the origin's role: the destination's side of what
 * docs/architecture.md calls the life of a disk.
 *
 * Each step is on disk before it is acted upon, so that a process that dies anywhere goes on from there:
 *
 * | record | means | a restart |
 * |---|---|---|
 * | standby | nothing kept | attaches again |
 * | relocating | the origin is fenced, the map exists | opens the map and goes on; the fence is asked for
 * again, which changes nothing |
 * | serving, origin known | complete, the origin may not know | tells it to retire |
 * | serving, no origin | a target | - |
 * | reclaimed | the origin took the disk back by hand: what is here is void | refused |
 * | retired, origin known | moved on before it was complete | tells its own origin to retire |
 */
import { log } from '../log/log.ts';
import { Command } from '../nbd/constants.ts';
import { LeaseVoid } from '../nbd/handshake/client-handshake.ts';
import { removeDurably } from '../store/directory.ts';
import type { Image } from '../store/image/image.ts';
import { PresentMap } from '../store/maps/present-map.ts';
import { type ExportRecord, secondsSinceTakeover } from '../store/records/record.ts';
import type { RecordKeeper } from '../store/records/record-keeper.ts';
import { type Counters, DiskCopy } from './disk-copy.ts';
import { BlockLocks } from './fetch/block-locks.ts';
import { GuestWaits } from './fetch/guest-waits.ts';
import { command, completed, fenceAgain } from './lease/commands.ts';
import { giveBack } from './lease/give-back.ts';
import { retireOrigin } from './lease/retire-origin.ts';
import { awaitSourceGone } from './lease/source-gone.ts';
import { openMap, takeOver } from './lease/take-over.ts';
import { endVoid } from './lease/void-lease.ts';
import { countData } from './origin/count-data.ts';
import type { OriginLink } from './origin/link.ts';
import { ProxyDisk } from './proxy/proxy-disk.ts';
import { Verification } from './self-check/verification.ts';

const ASK_AGAIN_MS = 1000;
/** Longer than libvirt takes to tell that a guest which was awaited here will not come. */
const NEVER_CAME_MS = 60_000;

export interface RelocationOptions {
  keeper: RecordKeeper;
  stateDir: string;
  image: Image;
  /** The origin; null when the record has none any more. */
  link: OriginLink | null;
  /** The disk is compared with its origin before that is let go. */
  verify: boolean;
  /**
   * A hypervisor that has read here may wait for a guest that never comes: the daemon will tell (`arrived`).
   */
  awaitsGuest: boolean;
  /**
   * How long a client's request may wait for the origin, seconds; null: for ever. What the record says of it
   * comes first.
   */
  originTimeout: number | null;
}

export class Relocation {
  readonly disk: ProxyDisk;
  originDataBytes: number | null = null;
  readonly verification: Verification;
  /** Clients' requests that wait for the origin. */
  readonly waits: GuestWaits;
  /** Told on each change of state, and when the origin comes or goes. */
  onChange: (() => void) | null = null;
  /**
   * Resolves when the origin has taken the disk back for good, whenever anybody asks: no client may be served
   * any more.
   */
  readonly reclaimed = Promise.withResolvers<null>();
  readonly #options: RelocationOptions;
  readonly #record: Readonly<ExportRecord>;
  /** The counters of earlier processes. */
  readonly #before: Counters;
  #link: OriginLink | null;
  #copy: DiskCopy | null = null;
  #takeover: Promise<void> | null = null;
  /** The origin may have been fenced by this process. */
  #askedToFence = false;
  #abandoning: Promise<void> | null = null;
  readonly #locks = new BlockLocks();
  #finished: Promise<void> | null = null;
  #retiringOrigin: Promise<void> | null = null;
  #error: string | null = null;
  /** The origin will never take us back. */
  #void = false;
  #arrived = false;
  #mapClosed = false;
  #stopped = false;

  private constructor(options: RelocationOptions) {
    const { link } = options;
    this.#options = options;
    this.#record = options.keeper.record;
    this.#before = { ...this.#record };
    this.#link = link;
    this.waits = new GuestWaits(options.originTimeout);
    this.waits.choose(this.#record.originTimeout ?? 'default');
    this.disk = new ProxyDisk(options.image, this.#record.complete ? null : link, this.waits);
    this.disk.changes.onAcknowledged = () => this.arrived();
    this.disk.onFirstChange = () => this.takeOver('the first write of the guest');
    this.verification = new Verification({
      keeper: options.keeper,
      required: options.verify,
      changed: () => this.onChange?.(),
      admitted: () => this.#verified(),
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
    const { record } = options.keeper;
    if (record.complete || record.state === 'retired') {
      if (options.link !== null) void relocation.#retireOrigin();
    } else if (record.takenOverAt === null) {
      await relocation.#begin();
    } else {
      await relocation.#resume();
    }
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

  /** What copies, from the takeover until the disk is complete. */
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
    const { onDemandBytes, backgroundBytes, skippedBytes } = this.#before;
    const now = this.#copy?.counters;
    return {
      onDemandBytes: onDemandBytes + (now?.onDemandBytes ?? 0),
      backgroundBytes: backgroundBytes + (now?.backgroundBytes ?? 0),
      skippedBytes: skippedBytes + (now?.skippedBytes ?? 0),
    };
  }

  /** Fences the origin and begins to keep blocks. Resolves once that is so. @param why for the log. */
  takeOver(why: string): Promise<void> {
    if (this.disk.phase !== 'standby') return Promise.resolve();
    if (this.#void || (this.#takeover === null && this.givingUp))
      return Promise.reject(new Error(this.error ?? `${this.#record.name} is being given up`));
    this.#takeover ??= this.#takeOver(why).catch((error: unknown) => {
      this.#takeover = null;
      this.#error = `takeover failed: ${(error as Error).message}`;
      log.error(this.#error);
      this.onChange?.();
      throw error;
    });
    return this.#takeover;
  }

  /**
   * The guest runs here. Until that is known a disk that is complete keeps its origin: the source's guest may
   * be gone because it was killed in the middle of its migration, and then the disk goes back to where its
   * domain is.
   */
  arrived(): void {
    this.#arrived = true;
    if (this.#copy?.isComplete === true) void this.#finish();
  }

  get givingUp(): boolean {
    return this.#abandoning !== null;
  }

  /**
   * Gives the move up: the origin gets its disk back, and what is here is deleted.
   * @throws Error, one line, when that would lose an acknowledged write, or the origin cannot be told.
   */
  abandon(): Promise<void> {
    this.#abandoning ??= this.#abandon().catch((error: unknown) => {
      this.#abandoning = null;
      this.disk.changes.open();
      if (this.#copy?.isComplete === true) void this.#finish();
      throw error;
    });
    return this.#abandoning;
  }

  async #abandon(): Promise<void> {
    const { name } = this.#record;
    // A takeover that has begun ends first, either way.
    await this.#takeover?.catch(() => undefined);
    if (this.disk.phase === 'complete' || this.#finished !== null || !this.disk.changes.close()) {
      throw new Error(
        `${name} is ${this.#record.state} and holds writes that exist nowhere else: it cannot be abandoned; let it complete`,
      );
    }
    this.verification.interrupt('the move is being given up');
    if (this.#link?.lends === true && !this.#void) {
      await giveBack({
        keeper: this.#options.keeper,
        link: this.#link,
        askedToFence: this.#askedToFence,
        command: () => command(this.#link!, this.#record.origin!.uri, Command.XNBD_GIVE_BACK, 'give back'),
      });
    }
    await this.stop();
    // Before the record goes: whoever comes next knows by it whose the image is.
    if (this.#record.imageCreated) await removeDurably(this.#options.image.path);
    await PresentMap.remove(this.#options.stateDir);
    log.info('abandoned; the origin has its disk back');
  }

  /** Our lease is void: what was kept is of no use to anybody, and nobody is served from it. */
  async #endVoid(reason: string): Promise<void> {
    this.#void = true;
    this.#error = reason;
    this.#copy?.pause();
    this.#link?.close();
    void this.verification.stop();
    const takenOver = this.#record.takenOverAt !== null;
    if (takenOver) this.reclaimed.resolve(null);
    await endVoid(this.#options.keeper, takenOver, reason);
    this.onChange?.();
  }

  /** We are an origin ourselves, and have been told to retire: so is ours. */
  async retire(): Promise<void> {
    this.#copy?.pause();
    if (this.#link !== null) await this.#retireOrigin();
  }

  /** Stops fetching and saves the map. What was present stays so. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#copy?.pause();
    this.#link?.close();
    // Without the link nothing new begins. What is being written to the image or the record ends before they
    // are closed.
    await this.#takeover?.catch(() => undefined);
    await this.verification.stop();
    await this.#finished;
    await this.#retiringOrigin;
    await this.#locks.whenIdle();
    this.#copy?.stop();
    if (this.#copy !== null && !this.#record.complete) {
      await this.#copy.checkpoint();
      await this.#options.keeper.update(this.counters);
    }
    await this.#closeMap();
  }

  /** Standby: waits for the source's guest to be gone, and asks how much data there is. */
  async #begin(): Promise<void> {
    const link = this.#link!;
    if (link.lends) {
      const waits = (): boolean => !this.#stopped && !this.#void && this.disk.phase === 'standby';
      const takeOver = (): void => void this.takeOver("the end of the source's guest").catch(() => undefined);
      awaitSourceGone(link, waits, takeOver);
    }
    const counted = countData(link, this.#record.sizeBytes).then((bytes) => {
      this.originDataBytes = bytes;
    });
    // Whoever decides on room at the destination wants the figure with the first status; an origin that is
    // away must not hold us up.
    if (link.unreachableSince === null) await counted;
  }

  async #takeOver(why: string): Promise<void> {
    const { keeper, stateDir, image } = this.#options;
    log.info(`takeover, by ${why}`);
    this.#askedToFence = true;
    const ended = (): boolean => this.#stopped || this.#void;
    const map = await takeOver({ link: this.#link!, keeper, image, stateDir, ended });
    this.#error = null;
    this.#keep(map);
    this.onChange?.();
  }

  /** After a restart: the fence is asked for again (it may take its time), and the map is opened. */
  async #resume(): Promise<void> {
    const link = this.#link!;
    const { stateDir, image } = this.#options;
    const map = await openMap(this.#record, image, stateDir);
    // Whether a client wrote before the restart is not known: so it is taken for granted.
    this.disk.changes.acknowledged = true;
    if (link.lends) {
      fenceAgain(link, (errno) => {
        this.#error = `the origin refuses to be fenced again: error ${errno}`;
        log.error(this.#error);
      });
    }
    this.#keep(map);
  }

  #keep(map: PresentMap): void {
    const copy = new DiskCopy({
      name: this.#record.name,
      link: this.#link!,
      image: this.#options.image,
      map,
      locks: this.#locks,
      onComplete: () => void this.#finish(),
      onChange: () => this.onChange?.(),
    });
    this.#copy = copy;
    this.verification.begin({ link: this.#link!, image: this.#options.image, map });
    this.disk.startRelocating(copy.parts);
    if (!this.#stopped && !this.#void) copy.start();
  }

  /** Of a disk that is complete, or an export that ends. */
  async #closeMap(): Promise<void> {
    if (this.#mapClosed) return;
    this.#mapClosed = true;
    await this.#copy?.map.close();
  }

  /** Every block is present: durably so, then we are a target, then the origin may go. */
  #finish(): Promise<void> {
    if (this.#stopped || this.givingUp) return Promise.resolve();
    if (this.#options.awaitsGuest && this.disk.readInStandby && !this.#arrived)
      setTimeout(() => this.arrived(), NEVER_CAME_MS).unref();
    else if (this.verification.admits()) this.#finished ??= this.#finishNow();
    return this.#finished ?? Promise.resolve();
  }

  async #finishNow(): Promise<void> {
    const record = this.#record;
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
      const hindrance = `complete, but that cannot be put on disk: ${(error as Error).message}; trying again`;
      if (this.#error !== hindrance) log.error(hindrance);
      this.#error = hindrance;
      this.onChange?.();
      setTimeout(() => {
        this.#finished = null;
        void this.#finish();
      }, ASK_AGAIN_MS);
      return;
    }
    this.#error = null;
    this.disk.completed();
    log.info(`complete after ${record.relocationSeconds.toFixed(1)} s; letting go of the origin`);
    this.onChange?.();
    await this.#retireOrigin();
  }

  /** A comparison has ended, or its result was accepted. */
  #verified(): void {
    if (this.#record.state === 'retired' && this.#link !== null) void this.#retireOrigin();
    else if (this.#copy?.isComplete === true) void this.#finish();
  }

  /** Tells the origin to retire, for as long as it takes; an origin that is there no more has been told. */
  #retireOrigin(): Promise<void> {
    if (this.#record.differs || this.verification.running) return Promise.resolve();
    this.#retiringOrigin ??= this.#retireOriginNow().catch((error: unknown) => {
      // The next start tries again.
      this.#error = `the origin is let go, but that cannot be put on disk: ${(error as Error).message}`;
      log.error(this.#error);
    });
    return this.#retiringOrigin;
  }

  async #retireOriginNow(): Promise<void> {
    const link = this.#link!;
    await retireOrigin({
      link,
      keeper: this.#options.keeper,
      stateDir: this.#options.stateDir,
      closeMap: () => this.#closeMap(),
      stopped: () => this.#stopped || this.#void,
      hindered: (reason) => {
        if (this.#error !== reason) log.error(reason);
        this.#error = reason;
        this.onChange?.();
      },
    });
    if (this.#stopped || this.#void) return;
    this.#link = null;
    this.#error = null;
    this.onChange?.();
  }
}
