/**
 * One disk's relocation, from the lease to the end of the origin's role: what design 4 calls the life of a disk, on the destination's side.
 *
 * Each step is on disk before it is acted upon, so that a process that dies anywhere goes on from there:
 *
 * | record | means | a restart |
 * |---|---|---|
 * | standby | nothing kept | attaches again |
 * | relocating | the origin is fenced, the map exists | opens the map and goes on; the fence is asked for again, which changes nothing |
 * | serving, origin known | complete, the origin may not know | tells it to retire |
 * | serving, no origin | a target | - |
 * | retired, origin known | moved on before it was complete | tells its own origin to retire |
 */
import { rm } from 'node:fs/promises';
import type { RecordKeeper } from '../export/record-keeper.ts';
import { log } from '../log/log.ts';
import { Command, Errno } from '../nbd/constants.ts';
import type { Image } from '../store/image.ts';
import { PresentMap } from '../store/present-map.ts';
import type { ExportRecord } from '../store/record.ts';
import { BackgroundCopy } from './background-copy.ts';
import { BlockLocks } from './block-locks.ts';
import { type Counters, countersSince } from './counters.ts';
import { Fetcher } from './fetcher.ts';
import { giveBack } from './give-back.ts';
import { letGo } from './let-go.ts';
import { mapIdentity } from './map-identity.ts';
import { command, completed } from './origin-command.ts';
import { countData } from './origin-data.ts';
import type { OriginLink } from './origin-link.ts';
import { OriginMap } from './origin-map.ts';
import { ProxyDisk } from './proxy-disk.ts';
import { Verification } from './verification.ts';

/** How much may be fetched again after a loss of power. */
const CHECKPOINT_MS = 5000;
const ASK_AGAIN_MS = 1000;

export interface RelocationOptions {
  keeper: RecordKeeper;
  stateDir: string;
  image: Image;
  /** The origin; null when the record has none any more. */
  link: OriginLink | null;
  /** The disk is compared with its origin before that is let go. */
  verify?: boolean;
}

export class Relocation {
  readonly disk: ProxyDisk;
  readonly verification: Verification;
  /** Told on each change of state, and when the origin comes or goes. */
  onChange: (() => void) | null = null;
  readonly #options: RelocationOptions;
  readonly #record: Readonly<ExportRecord>;
  /** The counters of earlier processes. */
  readonly #before: Counters;
  #link: OriginLink | null;
  #map: PresentMap | null = null;
  #fetcher: Fetcher | null = null;
  #background: BackgroundCopy | null = null;
  #takeover: Promise<void> | null = null;
  /** The origin may have been fenced by this process. */
  #askedToFence = false;
  #abandoning: Promise<void> | null = null;
  readonly #locks = new BlockLocks();
  #finished: Promise<void> | null = null;
  #lettingGo: Promise<void> | null = null;
  #checkpointTimer: NodeJS.Timeout | null = null;
  #originDataBytes: number | null = null;
  #error: string | null = null;
  #stopped = false;

  private constructor(options: RelocationOptions) {
    const { link } = options;
    this.#options = options;
    this.#record = options.keeper.record;
    this.#before = { ...this.#record };
    this.#link = link;
    this.disk = new ProxyDisk(options.image, this.#record.complete ? null : link);
    this.disk.onFirstChange = () => this.takeOver('the first write of the guest');
    this.verification = new Verification({
      keeper: options.keeper,
      required: options.verify ?? false,
      changed: () => this.onChange?.(),
      admitted: () => this.#verified(),
    });
    if (link !== null) link.onChange = () => this.onChange?.();
  }

  /**
   * Begins or resumes what the record says.
   * @throws Error, one line, when the map is another disk's.
   */
  static async open(options: RelocationOptions): Promise<Relocation> {
    const relocation = new Relocation(options);
    const { record } = options.keeper;
    if (record.complete || record.state === 'retired') {
      if (options.link !== null) void relocation.#letGo();
    } else if (record.takenOverAt === null) {
      await relocation.#begin();
    } else {
      await relocation.#resume();
    }
    return relocation;
  }

  /** Bytes of the image that are local. */
  get presentBytes(): number {
    return this.#record.complete ? this.#record.sizeBytes : (this.#map?.presentBytes ?? 0);
  }

  /** Since when the origin cannot be reached; null while it can, or where there is none. */
  get originUnreachableSince(): Date | null {
    return this.#link?.unreachableSince ?? null;
  }

  /** Why it cannot, in one line. */
  get originUnreachableReason(): string | null {
    return this.#link?.unreachableReason ?? null;
  }

  get originDataBytes(): number | null {
    return this.#originDataBytes;
  }

  get error(): string | null {
    const refusal = this.#link?.refusal ?? null;
    if (refusal !== null) return `the origin refuses us: ${refusal}`;
    const { error } = this.verification;
    return (this.#record.complete ? null : this.#background?.error) ?? error ?? this.#error;
  }

  /** The counters of the relocation, with what happened before a restart. */
  get counters(): Counters {
    return countersSince(this.#before, this.#fetcher, this.#background);
  }

  get secondsSinceTakeover(): number {
    const { takenOverAt, relocationSeconds, complete } = this.#record;
    if (complete || takenOverAt === null) return relocationSeconds;
    return Math.max(0, (Date.now() - Date.parse(takenOverAt)) / 1000);
  }

  /** Fences the origin and begins to keep blocks. Resolves once that is so. @param why for the log. */
  takeOver(why: string): Promise<void> {
    if (this.disk.phase !== 'standby') return Promise.resolve();
    if (this.#takeover === null && this.givingUp)
      return Promise.reject(new Error(`${this.#record.name} is being given up`));
    this.#takeover ??= this.#takeOver(why).catch((error: unknown) => {
      this.#takeover = null;
      this.#error = `takeover failed: ${(error as Error).message}`;
      log.error(`${this.#record.name}: ${this.#error}`);
      this.onChange?.();
      throw error;
    });
    return this.#takeover;
  }

  /** The move is being given up. */
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
      this.disk.admitChanges();
      if (this.#map?.complete === true) void this.#finish();
      throw error;
    });
    return this.#abandoning;
  }

  async #abandon(): Promise<void> {
    const { name } = this.#record;
    // A takeover that has begun ends first, either way.
    await this.#takeover?.catch(() => undefined);
    if (this.disk.phase === 'complete' || this.#finished !== null || !this.disk.refuseChanges()) {
      throw new Error(
        `${name} is ${this.#record.state} and holds writes that exist nowhere else: it cannot be abandoned; let it complete`,
      );
    }
    this.verification.interrupt('the move is being given up');
    if (this.#link?.lends === true) {
      await giveBack({
        keeper: this.#options.keeper,
        link: this.#link,
        askedToFence: this.#askedToFence,
        command: () => command(this.#link!, this.#record.origin!.uri, Command.XNBD_GIVE_BACK, 'give back'),
      });
    }
    await this.stop();
    if (this.#record.imageCreated) await rm(this.#options.image.path, { force: true });
    await PresentMap.remove(this.#options.stateDir);
    log.info(`${name}: abandoned; the origin has its disk back`);
  }

  /** We are an origin ourselves, and have been told to retire: so is ours. */
  async retire(): Promise<void> {
    this.#background?.stop();
    if (this.#link !== null) await this.#letGo();
  }

  /** Stops fetching and saves the map. What was present stays so. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#background?.stop();
    this.#link?.close();
    // Without the link nothing new begins. What is being written to the image or the record ends before they are closed.
    await this.#takeover?.catch(() => undefined);
    await this.verification.stop();
    await this.#finished;
    await this.#lettingGo;
    await this.#locks.whenIdle();
    if (this.#checkpointTimer !== null) clearInterval(this.#checkpointTimer);
    if (this.#map !== null && !this.#record.complete) {
      await this.#checkpoint();
      await this.#options.keeper.update(this.counters);
    }
    await this.#map?.close();
  }

  /** Standby: waits for the source's guest to be gone, and asks how much data there is. */
  async #begin(): Promise<void> {
    const link = this.#link!;
    if (link.lends) this.#awaitSourceGone(link);
    const counted = countData(link, this.#record.sizeBytes).then((bytes) => {
      this.#originDataBytes = bytes;
    });
    // Whoever decides on room at the destination wants the figure with the first status; an origin that is away must not hold us up.
    if (link.unreachableSince === null) await counted;
  }

  #awaitSourceGone(link: OriginLink): void {
    link.awaitSourceGone({
      complete: (errno) => {
        if (this.#stopped || this.disk.phase !== 'standby') return;
        if (errno === 0) void this.takeOver("the end of the source's guest").catch(() => undefined);
        else setTimeout(() => !this.#stopped && this.#awaitSourceGone(link), ASK_AGAIN_MS).unref();
      },
    });
  }

  async #takeOver(why: string): Promise<void> {
    const { keeper, stateDir, image } = this.#options;
    const { record } = keeper;
    const link = this.#link!;
    log.info(`${record.name}: takeover, by ${why}`);
    this.#askedToFence = true;
    if (link.lends) await command(link, record.origin!.uri, Command.XNBD_TAKEOVER, 'take over');
    else await completed((done) => link.flush(done));
    if (this.#stopped) throw new Error('the export is being stopped');
    const map = await PresentMap.create(stateDir, await mapIdentity(record, image), image);
    await keeper.update({
      generation: record.origin!.generation + 1,
      takenOverAt: new Date().toISOString(),
      state: 'relocating',
    });
    this.#error = null;
    this.#keep(map);
    log.info(`${record.name}: relocating, generation ${record.generation}`);
    this.onChange?.();
  }

  /** After a restart: the fence is asked for again (it may take its time), and the map is opened. */
  async #resume(): Promise<void> {
    const link = this.#link!;
    const map = await PresentMap.open(
      this.#options.stateDir,
      await mapIdentity(this.#record, this.#options.image),
      this.#options.image,
    );
    // Whether a client wrote before the restart is not known: so it is taken for granted.
    this.disk.changed = true;
    if (link.lends) {
      link.command(Command.XNBD_TAKEOVER, {
        complete: (errno) => {
          if (errno === 0 || errno === Errno.ESHUTDOWN) return;
          this.#error = `the origin refuses to be fenced again: error ${errno}`;
          log.error(`${this.#record.name}: ${this.#error}`);
        },
      });
    }
    this.#keep(map);
    log.info(`${this.#record.name}: relocating again, ${map.presentBytes} of ${map.sizeBytes} bytes present`);
  }

  #keep(map: PresentMap): void {
    const { image } = this.#options;
    const link = this.#link!;
    const locks = this.#locks;
    const fetcher = new Fetcher({ link, image, map, locks });
    const background = new BackgroundCopy({ link, fetcher, image, map, locks });
    this.#map = map;
    this.#fetcher = fetcher;
    this.#background = background;
    fetcher.onSettled = () => {
      if (map.complete) void this.#finish();
      else background.proceed();
    };
    this.verification.begin({ link, image, map });
    this.disk.keep({ map, locks, fetcher, originMap: new OriginMap(link, map.sizeBytes) });
    this.#checkpointTimer = setInterval(() => void this.#checkpoint(), CHECKPOINT_MS);
    if (!this.#stopped) background.start();
    if (map.complete) void this.#finish();
  }

  async #checkpoint(): Promise<void> {
    await completed((done) => this.#map!.flush(done)).catch((error: unknown) => {
      this.#error = `the present map cannot be saved: ${(error as Error).message}`;
    });
  }

  /** Every block is present: durably so, then we are a target, then the origin may go. */
  #finish(): Promise<void> {
    if (this.#stopped || this.givingUp || !this.verification.admits()) return Promise.resolve();
    this.#finished ??= this.#finishNow();
    return this.#finished;
  }

  async #finishNow(): Promise<void> {
    const record = this.#record;
    try {
      clearInterval(this.#checkpointTimer!);
      this.#background!.stop();
      await completed((done) => this.#map!.flush(done));
      // The next host may be fencing the disk right now.
      await this.#options.keeper.update(({ state }) => ({
        ...this.counters,
        complete: true,
        state: state === 'relocating' ? 'serving' : state,
        relocationSeconds: this.secondsSinceTakeover,
      }));
    } catch (error) {
      this.#error = `complete, but that cannot be put on disk: ${(error as Error).message}; trying again`;
      log.error(`${record.name}: ${this.#error}`);
      this.onChange?.();
      setTimeout(() => {
        this.#finished = null;
        void this.#finish();
      }, ASK_AGAIN_MS);
      return;
    }
    this.#error = null;
    this.disk.completed();
    log.info(
      `${record.name}: complete after ${record.relocationSeconds.toFixed(1)} s; letting go of the origin`,
    );
    this.onChange?.();
    await this.#letGo();
  }

  #verified(): void {
    if (this.#record.state === 'retired' && this.#link !== null) void this.#letGo();
    else if (this.#map?.complete === true) void this.#finish();
  }

  /** Tells the origin to retire, for as long as it takes; an origin that is there no more has been told. */
  #letGo(): Promise<void> {
    if (this.#record.differs || this.verification.running) return Promise.resolve();
    this.#lettingGo ??= this.#letGoNow().catch((error: unknown) => {
      // The next start tries again.
      this.#error = `the origin is let go, but that cannot be put on disk: ${(error as Error).message}`;
      log.error(`${this.#record.name}: ${this.#error}`);
    });
    return this.#lettingGo;
  }

  async #letGoNow(): Promise<void> {
    const link = this.#link!;
    await letGo({
      link,
      keeper: this.#options.keeper,
      stateDir: this.#options.stateDir,
      closeMap: async () => {
        await this.#map?.close();
        this.#map = null;
      },
      stopped: () => this.#stopped,
      hindered: (reason) => {
        if (this.#error !== reason) log.error(`${this.#record.name}: ${reason}`);
        this.#error = reason;
        this.onChange?.();
      },
    });
    if (this.#stopped) return;
    this.#link = null;
    this.#error = null;
    this.onChange?.();
  }
}
