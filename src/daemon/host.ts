/** The daemon's parts, handed as one object to every function that acts on disks. */
import type { Config } from '../config/config.ts';
import type { Devices } from './devices/devices.ts';
import type { Exports } from './exports/exports.ts';
import type { UnusedExports } from './exports/unused-exports.ts';
import type { KeyedQueue } from './keyed-queue.ts';
import type { Domains } from './registry/domains.ts';
import type { Moves } from './registry/moves.ts';

export interface Host {
  config: Config;
  domains: Domains;
  moves: Moves;
  exports: Exports;
  unused: UnusedExports;
  devices: Devices;
  /**
   * One domain's hooks (key: its uuid), or the removal of one disk (key: `disk NAME`), never twice at a time.
   */
  queue: KeyedQueue;
  /** Asks libvirt whether a domain runs here; undefined where that cannot be asked. */
  isActive(domainUuid: string): Promise<boolean | undefined>;
  /** Has the origins of a domain's disks written into its live metadata, soon: never waits for libvirt. */
  writeOriginsSoon(domainUuid: string): void;
}
