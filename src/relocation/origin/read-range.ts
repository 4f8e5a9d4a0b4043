/**
 * One read of the origin, as READs that this server takes: whole blocks of its own, no longer than it allows.
 *
 * Another's server is asked not to fragment the answer (DF), where it offers that. qemu-nbd, which looks for
 * holes in what it reads, has sent the first half of a fragmented answer when it meets a bad sector, and
 * hangs up then; an answer in one piece it refuses with an error, as it should. Ours says so in either form,
 * and may fragment.
 */
import type { OriginConnection } from '../../client/connection.ts';
import { CommandFlag, Errno } from '../../nbd/constants.ts';
import { Feature } from '../../nbd/handshake/features.ts';
import type { Completion } from '../../store/completion.ts';
import { Countdown } from '../../store/countdown.ts';

export interface Range {
  offset: number;
  /** Of the origin. */
  sizeBytes: number;
  /** No client waits for it, which an origin that knows the mark is told. */
  background: boolean;
}

/** Fills `into` with what the origin has at `offset`. */
export function readRange(
  connection: OriginConnection,
  into: Buffer,
  { offset, sizeBytes, background }: Range,
  done: Completion,
): void {
  const marked = background && (connection.offer.features & Feature.BACKGROUND) !== 0;
  const { minimumBlock, maximumPayload } = connection.offer;
  const before = offset % minimumBlock;
  const start = offset - before;
  const length = Math.min(roundUp(before + into.length, minimumBlock), sizeBytes - start);
  // An origin with larger blocks than ours is asked for whole ones of its own.
  const whole = length === into.length ? into : Buffer.allocUnsafeSlow(length);
  const limit = maximumPayload - (maximumPayload % minimumBlock);
  const parts = new Countdown(Math.ceil(length / limit), {
    complete: (errno) => {
      if (errno === 0 && whole !== into) whole.copy(into, 0, before);
      done.complete(errno);
    },
  });
  for (let at = 0; at < length; at += limit)
    readPart(connection, whole.subarray(at, at + limit), { offset: start + at, marked }, parts);
}

function readPart(
  connection: OriginConnection,
  into: Buffer,
  { offset, marked }: { offset: number; marked: boolean },
  done: Completion,
): void {
  if (connection.offer.attached !== null || !connection.has('SEND_DF')) {
    connection.read(into, offset, done, marked ? CommandFlag.XNBD_BACKGROUND : 0);
    return;
  }
  const answered: Completion = {
    complete: (errno) => {
      // It may refuse to answer more than 64 KiB in one piece.
      if (errno === Errno.EOVERFLOW) connection.read(into, offset, done);
      else done.complete(errno);
    },
  };
  connection.read(into, offset, answered, CommandFlag.DF);
}

/** The next multiple of `step`. */
export function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}
