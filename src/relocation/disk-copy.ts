/** From the takeover to the last block: what makes the blocks of one disk local, put together. */
import type { BadRange } from '../control/status.ts';
import { log } from '../log/log.ts';
import { originHost } from '../nbd/uri.ts';
import type { Image } from '../store/image/image.ts';
import type { PresentMap } from '../store/maps/present-map.ts';
import { type ExportRecord, secondsSinceTakeover } from '../store/records/record.ts';
import type { RecordKeeper } from '../store/records/record-keeper.ts';
import { Arrival } from './arrival.ts';
import type { ArrivalSample } from './copy/arrival-estimate.ts';
import { BackgroundCopy } from './copy/background-copy.ts';
import type { CopyCaps } from './copy/copy-caps.ts';
import { RateLimit } from './copy/rate-limit.ts';
import { BadBlocks } from './fetch/bad-blocks.ts';
import type { BlockLocks } from './fetch/block-locks.ts';
import { Fetcher } from './fetch/fetcher.ts';
import { ImageSpace } from './fetch/image-space.ts';
import { UnreadableBlocks } from './fetch/unreadable-blocks.ts';
import { OriginAllocation } from './origin/allocation.ts';
import type { OriginLink } from './origin/link.ts';
import { CopyPath } from './path/copy-path.ts';
import type { RelocatingParts } from './proxy/proxy-disk.ts';

/** How much may be fetched again after a loss of power. */
const CHECKPOINT_MS = 5000;
/** Stretches that the status names. */
const MOST_SHOWN = 16;

/** Bytes that came because a client asked, for the background copy, and that were holes at the origin. */
export type Counters = Pick<ExportRecord, 'onDemandBytes' | 'backgroundBytes' | 'skippedBytes'>;

export function sumOf(...all: readonly Readonly<Counters>[]): Counters {
  const sum = { onDemandBytes: 0, backgroundBytes: 0, skippedBytes: 0 };
  for (const { onDemandBytes, backgroundBytes, skippedBytes } of all) {
    sum.onDemandBytes += onDemandBytes;
    sum.backgroundBytes += backgroundBytes;
    sum.skippedBytes += skippedBytes;
  }
  return sum;
}

/** bit/s over the link, from the takeover until now, or until all was here. */
export function averageRate({ onDemandBytes, backgroundBytes }: Counters, record: ExportRecord): number {
  const seconds = secondsSinceTakeover(record);
  return seconds === 0 ? 0 : Math.round(((onDemandBytes + backgroundBytes) * 8) / seconds);
}

export interface DiskCopyOptions {
  link: OriginLink;
  image: Image;
  map: PresentMap;
  locks: BlockLocks;
  caps: CopyCaps;
  /** The surroundings of the guest's reads come first. */
  follow: () => boolean;
  keeper: Pick<RecordKeeper, 'record'>;
  /** The counters of earlier processes. */
  before: Counters;
  /** A directory of the host's disks, by which they share the path; null: this one is alone. */
  run: string | null;
  /** Every block is present. May be told again and again. */
  onComplete: () => void;
  /** Something of the status has changed. */
  onChange: () => void;
}

export class DiskCopy {
  readonly map: PresentMap;
  readonly #link: OriginLink;
  readonly #fetcher: Fetcher;
  /** For the disk. */
  readonly parts: RelocatingParts;
  readonly #bad: BadBlocks;
  readonly #unreadable: UnreadableBlocks;
  readonly #space: ImageSpace;
  readonly #background: BackgroundCopy;
  readonly #caps: CopyCaps;
  readonly #limit: RateLimit;
  readonly #arrival: Arrival;
  readonly #path: CopyPath;
  readonly #checkpointTimer: NodeJS.Timeout;
  readonly #onComplete: () => void;
  #checkpointError: string | null = null;
  #closing: Promise<void> | null = null;

  constructor(options: DiskCopyOptions) {
    const { link, image, map, locks, caps, follow, keeper, before, onComplete, onChange } = options;
    const origin = originHost(keeper.record.origin?.uri ?? '');
    this.map = map;
    this.#onComplete = onComplete;
    this.#bad = new BadBlocks(map);
    this.#unreadable = new UnreadableBlocks({
      image,
      onChange: () => {
        this.#tellIfComplete();
        onChange();
      },
    });
    this.#space = new ImageSpace({
      image: image.isBlockDevice ? null : image.path,
      missing: () => map.sizeBytes - map.presentBytes,
      onChange: () => {
        this.#background.proceed();
        onChange();
      },
    });
    const parts = { image, map, locks, space: this.#space, bad: this.#bad };
    this.#fetcher = new Fetcher({ ...parts, source: link });
    this.#path = new CopyPath({
      link,
      run: options.run,
      origin,
      weight: () => caps.weight,
    });
    const { window } = this.#path;
    const pace = new RateLimit(window, () => this.#fetcher.onDemandBytes);
    pace.limit(caps.rate);
    this.#background = new BackgroundCopy({
      ...parts,
      link,
      fetcher: this.#fetcher,
      pace,
      pathBytes: () => window.limit,
      follow,
    });
    caps.onChange = () => {
      pace.limit(caps.rate);
      this.#background.proceed();
      onChange();
    };
    this.#arrival = new Arrival({
      origin,
      averageRate: () => averageRate(sumOf(before, this.counters), keeper.record),
      sizeBytes: map.sizeBytes,
      sample: () => this.#sample(),
      onAlarm: onChange,
    });
    this.#link = link;
    this.#caps = caps;
    this.#limit = pace;
    map.onMarked = () => this.#tellIfComplete();
    const allocation = new OriginAllocation(link, map.sizeBytes);
    this.parts = { map, locks, fetcher: this.#fetcher, allocation, space: this.#space };
    map.onFailed = () => {
      this.pause();
      onChange();
    };
    this.#checkpointTimer = setInterval(() => void this.checkpoint(), CHECKPOINT_MS);
  }

  start(): void {
    if (this.map.failed === null) {
      this.#background.start();
      this.#path.start();
    }
    this.#arrival.start();
    this.#tellIfComplete();
  }

  /** Every block is present, and none is known to be lost again. */
  get isComplete(): boolean {
    return this.map.complete && !this.#unreadable.any;
  }

  #tellIfComplete(): void {
    if (!this.isComplete) return;
    this.#path.leave();
    this.#onComplete();
  }

  /** Stops the copy; what is under way still ends. */
  pause(): void {
    this.#background.stop();
    this.#path.leave();
  }

  /** The end: no checkpoint any more, either. */
  stop(): void {
    this.pause();
    this.#arrival.stop();
    this.#space.stop();
    this.#unreadable.stop();
    clearInterval(this.#checkpointTimer);
  }

  /** Closes the map, which is saved or of no use any more. */
  close(): Promise<void> {
    this.#closing ??= this.map.close();
    return this.#closing;
  }

  /** Of this process. */
  get counters(): Counters {
    const { onDemandBytes, backgroundBytes } = this.#fetcher;
    return { onDemandBytes, backgroundBytes, skippedBytes: this.#background.skippedBytes };
  }

  /** Why the copy pauses, in one line; null while it does not. */
  get paused(): string | null {
    return this.#space.shortage ?? this.#caps.paused;
  }

  /** It would go faster if what people have set let it. */
  get held(): boolean {
    return this.#limit.held;
  }

  /** bit/s of the last seconds; seconds until all is here, or null; an alarm, or null. */
  get arrival(): { rate: number; secondsLeft: number | null; alarm: string | null } {
    return this.#arrival.estimate;
  }

  /** Bytes that are only at the origin: those that have to be fetched, as far as is known. */
  get missingBytes(): number {
    return this.#background.leftBytes ?? this.map.sizeBytes - this.map.presentBytes;
  }

  #sample(): ArrivalSample {
    const { onDemandBytes, backgroundBytes } = this.#fetcher;
    const hindered = this.paused !== null || this.#link.unreachableSince !== null;
    return {
      fetchedBytes: onDemandBytes + backgroundBytes,
      presentBytes: this.map.presentBytes,
      leftBytes: this.#background.leftBytes,
      hindered,
      excused: hindered || this.error !== null || this.map.complete,
      cap: this.#caps.rate,
    };
  }

  /** Bytes that cannot be copied, or not be read any more. */
  get badBytes(): number {
    return this.#bad.bytes + this.#unreadable.bytes;
  }

  /** Where those are, the first few. */
  get badRanges(): BadRange[] {
    return [...this.#bad.ranges, ...this.#unreadable.ranges(MOST_SHOWN)].slice(0, MOST_SHOWN);
  }

  /** The gravest thing first: what cannot go on, then what is lost, then what may pass. */
  get error(): string | null {
    if (this.map.failed !== null) return this.map.failed;
    const lost = this.map.lost?.line ?? null;
    return (
      lost ?? this.#bad.error ?? this.#unreadable.error ?? this.#background.error ?? this.#checkpointError
    );
  }

  /** Resolves once what is present survives loss of power, or that could not be had. */
  async checkpoint(): Promise<void> {
    const errno = await new Promise<number>((resolve) => this.map.flush({ complete: resolve }));
    const error = errno === 0 ? null : `the present map cannot be saved: error ${errno}`;
    if (error !== null && error !== this.#checkpointError && this.map.failed === null) log.error(error);
    this.#checkpointError = error;
  }
}
