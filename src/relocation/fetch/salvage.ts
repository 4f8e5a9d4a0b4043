/**
 * Reads what can be read of a stretch that the origin could not read as a whole: one bad sector must not cost
 * the 255 blocks around it.
 *
 * The stretch is read again in 16 pieces at once, and each piece that fails in single blocks: two round
 * trips, whatever is broken.
 */
import { Errno } from '../../nbd/constants.ts';
import { BLOCK_SIZE } from '../../store/block-ranges.ts';
import { Countdown } from '../../store/countdown.ts';
import type { BlockSource } from './block-source.ts';
import type { Fetch } from './fetch.ts';

const PIECES = 16;

/**
 * Fills the fetch's data, and names the blocks that stay unread. @param done 0, or why nothing can be said
 * (the link closes, another error)
 */
export function salvage(source: BlockSource, fetch: Fetch, done: (errno: number) => void): void {
  readPieces(source, fetch, fetch.first, fetch.end, done);
}

function readPieces(
  source: BlockSource,
  fetch: Fetch,
  first: number,
  end: number,
  done: (errno: number) => void,
): void {
  const blocks = end - first;
  const step = Math.ceil(blocks / PIECES);
  const all = new Countdown(Math.ceil(blocks / step), { complete: done });
  for (let at = first; at < end; at += step) {
    const until = Math.min(at + step, end);
    source.read(
      fetch.part(at, until),
      at * BLOCK_SIZE,
      {
        complete: (errno) => {
          if (errno === Errno.EIO && until - at > 1) {
            readPieces(source, fetch, at, until, (inner) => all.complete(inner));
          } else if (errno === Errno.EIO) {
            fetch.unread.add(at);
            all.complete(0);
          } else all.complete(errno);
        },
      },
      { unwanted: () => fetch.unwanted },
    );
  }
}
