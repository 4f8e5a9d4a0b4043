/**
 * What holds the copy of one disk back because people want it so: its own cap and pause, which are settings
 * of the disk, and its share of what the host may fetch, which the daemon deals out among all disks (control
 * method `share`). The least of them counts.
 *
 * A share outlives the daemon: while none is there, each export keeps to the last one, so that all together
 * never take more than the cap. An export that is started while a cap holds waits for its first share.
 */
import type { DiskSettings } from '../../store/records/disk-settings.ts';

/** What the daemon lets a disk have. */
export interface Share {
  /** bit/s; null: no cap. */
  rate: number | null;
  /** Why it is nothing, one line; null where it is more. */
  why: string | null;
}

/** @returns undefined for what is no share */
export function readShare(value: unknown): Share | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { rate, why } = value as Partial<Share>;
  const isRate = rate === null || (typeof rate === 'number' && rate >= 0);
  return isRate && (why === null || typeof why === 'string') ? { rate, why } : undefined;
}

const NOT_YET: Share = { rate: 0, why: 'it waits for its share of what this host may fetch: xnbdd tells it' };

export class CopyCaps {
  /** One of them has changed. */
  onChange: (() => void) | null = null;
  readonly #settings: DiskSettings;
  #share: Share;

  /**
   * @param awaitShare nothing is copied before the daemon has told the share
   * @param told to the process that is replaced
   */
  constructor(settings: DiskSettings, awaitShare: boolean, told?: Share) {
    this.#settings = settings;
    this.#share = told ?? (awaitShare ? NOT_YET : { rate: null, why: null });
    for (const name of ['copy-rate', 'paused'] as const) settings.follow(name, () => this.onChange?.());
  }

  get share(): Readonly<Share> {
    return this.#share;
  }

  tellShare(share: Share): void {
    this.#share = share;
    this.onChange?.();
  }

  /** bit/s; null: no cap. */
  get rate(): number | null {
    if (this.#settings.value('paused')) return 0;
    const own = this.#settings.value('copy-rate');
    const { rate } = this.#share;
    return own === null || rate === null ? (own ?? rate) : Math.min(own, rate);
  }

  /** Against those of the other disks. */
  get weight(): number {
    return this.#settings.value('weight');
  }

  /** Why nothing is copied, one line; null while something may be. */
  get paused(): string | null {
    if (this.#settings.value('paused')) return 'an administrator has paused it (xnbdctl resume)';
    if (this.#settings.value('copy-rate') === 0) return 'its copy-rate is 0';
    return this.#share.rate === 0 ? (this.#share.why ?? 'its share of what this host may fetch is 0') : null;
  }
}
