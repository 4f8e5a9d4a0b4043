/**
 * Reading so many bytes and no more, so that what follows is still in the stream for the code that takes it
 * over.
 */
import type { Readable } from 'node:stream';

/** The peer ended or broke the stream. */
export class StreamEnded extends Error {}

/**
 * @param length 1 or more; the caller has checked that it is not absurd.
 * @throws StreamEnded when the stream ends, breaks or is destroyed before.
 */
export function readExactly(stream: Readable, length: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (bytes: Buffer | null): void => {
      stream.off('readable', attempt).off('end', fail).off('close', fail).off('error', fail);
      if (bytes === null) reject(new StreamEnded('the connection ended'));
      else resolve(bytes);
    };
    const fail = (): void => settle(null);
    const attempt = (): void => {
      const bytes = stream.read(length) as Buffer | null;
      // At the end of the stream read() gives what is left, however little.
      if (bytes !== null) settle(bytes.length === length ? bytes : null);
      else if (stream.readableEnded || stream.destroyed) settle(null);
    };
    stream.on('readable', attempt).on('end', fail).on('close', fail).on('error', fail);
    attempt();
  });
}
