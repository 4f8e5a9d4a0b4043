/** What a relocation is made of. */
import type { Image } from '../store/image/image.ts';
import type { DiskSettings } from '../store/records/disk-settings.ts';
import type { RecordKeeper } from '../store/records/record-keeper.ts';
import type { CopyCaps } from './copy/copy-caps.ts';
import type { OriginLink } from './origin/link.ts';
import type { RelocationMemory } from './relocation-memory.ts';

export interface RelocationOptions {
  keeper: RecordKeeper;
  stateDir: string;
  image: Image;
  /** The origin; null when the record has none any more. */
  link: OriginLink | null;
  settings: DiskSettings;
  caps: CopyCaps;
  /** A directory of the disks of the host; null: this one knows of no others. */
  run: string | null;
  /**
   * A hypervisor that has read here may wait for a guest that never comes: the daemon tells (`guestRuns`).
   */
  waitForGuest: boolean;
  /** Of an earlier process; null: none that is known. */
  memory?: RelocationMemory | null;
}
