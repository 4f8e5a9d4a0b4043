/** What the daemon's parts work on, in one hand: nothing but the list. */
import type { Config } from '../config/config.ts';
import type { Exports } from './exports/exports.ts';
import type { Idle } from './exports/unused-exports.ts';
import type { Turns } from './keyed-queue.ts';
import type { Domains } from './registry/domains.ts';
import type { Relocations } from './registry/moves.ts';

export interface Host {
  config: Config;
  exports: Exports;
  domains: Domains;
  relocations: Relocations;
  idle: Idle;
  /**
   * One domain's hooks (key: its uuid), or the removal of one disk (key: `disk NAME`), never twice at a time.
   */
  turns: Turns;
  /** Has the origins of a domain's disks written into its live metadata, soon: never waits for libvirt. */
  announceOrigins(domainUuid: string): void;
}
