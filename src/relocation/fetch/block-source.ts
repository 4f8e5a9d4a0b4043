import type { Completion } from '../../store/completion.ts';

export interface ReadOptions {
  /** True once nothing waits for it: then it may end with ESHUTDOWN. */
  unwanted?: () => boolean;
  /** No client waits for it: the origin may answer others first. */
  background?: boolean;
}

/** Where the bytes of absent blocks come from: the origin's link, or what is put in front of it. */
export interface BlockSource {
  /**
   * Fills `into` with what the disk has at `offset`, both in whole blocks.
   * @param done 0, EIO where it cannot be read, ESHUTDOWN when no answer will come any more
   */
  read(into: Buffer, offset: number, done: Completion, options?: ReadOptions): void;
}
