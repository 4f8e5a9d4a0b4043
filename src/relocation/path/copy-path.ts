/**
 * The path over which one disk is copied: its window, the probes that steer it, and the disks it is shared
 * with.
 */
import type { OriginLink } from '../origin/link.ts';
import { PathProbe } from './path-probe.ts';
import { PathShare } from './path-share.ts';
import { PathWindow } from './path-window.ts';

export interface CopyPathOptions {
  link: OriginLink;
  /** A directory of the disks of the host; null: this one knows of no others. */
  run: string | null;
  /** Names the other end. */
  origin: string;
  /** Against those of the other disks. */
  weight: () => number;
}

export class CopyPath {
  readonly window: PathWindow;
  readonly #share: PathShare | null;
  /** null: the origin is not one of ours, and need not answer before its other answers. */
  readonly #probe: PathProbe | null;

  constructor({ link, run, origin, weight }: CopyPathOptions) {
    this.#share = run === null ? null : new PathShare(run, origin);
    const exchange = this.#share === null ? {} : { exchange: this.#share.exchange };
    const window = new PathWindow({ probed: link.lends, weight, ...exchange });
    this.window = window;
    this.#probe = !link.lends
      ? null
      : new PathProbe({
          link,
          busy: () => window.inFlight > 0,
          interval: () => window.probeInterval,
          probed: (elapsed, now) => window.probed(elapsed, now),
        });
  }

  start(): void {
    this.#probe?.start();
  }

  /** The other disks on the path have it to themselves. */
  leave(): void {
    this.#probe?.stop();
    this.#share?.close();
  }
}
