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
import type { Completion } from '../../store/completion.ts';
import { Countdown } from '../../store/countdown.ts';

/** Fills `into` with what the origin has at `offset`. @param sizeBytes of the origin */
export function readRange(
  connection: OriginConnection,
  into: Buffer,
  offset: number,
  sizeBytes: number,
  done: Completion,
): void {
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
    readPart(connection, whole.subarray(at, at + limit), start + at, parts);
}

function readPart(connection: OriginConnection, into: Buffer, offset: number, done: Completion): void {
  if (connection.offer.attached !== null || !connection.has('SEND_DF')) {
    connection.read(into, offset, done);
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
