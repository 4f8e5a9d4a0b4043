/**
 * How much a visitor's connection may hold that has not been sent: what the line carries in a few
 * milliseconds. A read that a guest waits for cannot pass that any more; less would leave the line idle
 * whenever this process is not scheduled in time. The line's rate is not known, so it is what has been
 * carried of late.
 */
import type { Socket } from 'node:net';
import type { BulkConnection } from '../system/tcp.ts';

const LOOK_MS = 250;
/** Of what the line carries. */
const UNSENT_MS = 8;
const LEAST_BYTES = 32 * 1024;
const MOST_BYTES = 4 * 1024 * 1024;
/** A rate that was higher is forgotten by this part with each look. */
const FORGOTTEN = 1 / 16;

/** @returns ends it */
export function keepLittleUnsent(
  stream: Pick<Socket, 'bytesWritten'>,
  connection: BulkConnection,
): () => void {
  let limit = LEAST_BYTES;
  let sent = stream.bytesWritten;
  let at = performance.now();
  /** Bytes a millisecond. */
  let rate = 0;
  connection.limitUnsent(limit);
  const look = setInterval(() => {
    const now = performance.now();
    const lately = (stream.bytesWritten - sent) / (now - at);
    sent = stream.bytesWritten;
    at = now;
    rate = Math.max(lately, rate * (1 - FORGOTTEN));
    const wanted = Math.min(Math.max(rate * UNSENT_MS, LEAST_BYTES), MOST_BYTES);
    if (wanted < limit * 1.25 && wanted > limit * 0.75) return;
    limit = Math.round(wanted);
    connection.limitUnsent(limit);
  }, LOOK_MS).unref();
  return () => clearInterval(look);
}
