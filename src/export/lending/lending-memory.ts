/** A lease that is attached but not fenced is nowhere on disk: what the next process needs to know of it. */
import type { LendState } from './admission.ts';

export interface LendingMemory {
  state: LendState;
  /** null: none is in force. */
  lease: LeaseMemory | null;
  /** The lease that was in force when our own origin took the disk back, or null. */
  voided: string | null;
  /** The source's guest is gone; a client of it has broken off. */
  watch: { gone: boolean; broken: boolean };
  /** A takeover may pass: the source's guest leaves, or is gone. */
  guardOpen: boolean;
}

export interface LeaseMemory {
  /** A secret of its holder. */
  uuid: string;
  identity: string | null;
  holder: string;
  /** Since the holder was heard, milliseconds; null: never. */
  quietMs: number | null;
}
