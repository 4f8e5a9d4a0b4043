/** What a relocation is given. */

import type { Image } from '../store/image/image.ts';
import type { RecordKeeper } from '../store/records/record-keeper.ts';
import type { OriginLink } from './origin/link.ts';

export interface RelocationOptions {
  keeper: RecordKeeper;
  stateDir: string;
  image: Image;
  /** The origin; null when the record has none any more. */
  link: OriginLink | null;
  /** The disk is compared with its origin before that is let go. */
  verify: boolean;
  /**
   * A hypervisor that has read here may wait for a guest that never comes: somebody will tell (`arrived`).
   */
  awaitsGuest: boolean;
  /**
   * How long a client's request may wait for the origin, seconds; null: for ever. What the record says of it
   * comes first.
   */
  originTimeout: number | null;
}
