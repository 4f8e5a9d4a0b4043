/**
 * Two streams made one: each byte of either goes to the other, with backpressure, until both directions have
 * ended.
 */
import type { Socket } from 'node:net';

/**
 * Ends each when the other ends (half-closed connections stay open the other way), breaks each when the other
 * breaks. Resolves when both are closed. Bytes that were read before are not lost: both are taken over as
 * they are.
 */
export async function joinStreams(a: Socket, b: Socket): Promise<void> {
  a.pipe(b);
  b.pipe(a);
  await Promise.all([closed(a, b), closed(b, a)]);
}

function closed(stream: Socket, other: Socket): Promise<void> {
  return new Promise((resolve) => {
    // A stream whose both directions ended closes by itself, and so does then the other; else it broke.
    const onClose = (): void => {
      if (!stream.readableEnded || !stream.writableFinished) other.destroy();
      resolve();
    };
    if (stream.closed) onClose();
    else stream.on('close', onClose);
  });
}
