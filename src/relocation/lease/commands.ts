/** What is asked of an origin a few times in a disk's life, as promises. */
import { Command, Errno } from '../../nbd/constants.ts';
import type { OriginLink } from '../origin/link.ts';

/** @throws Error with the errno. */
export function completed(start: (done: { complete(errno: number): void }) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start({ complete: (errno) => (errno === 0 ? resolve() : reject(new Error(`error ${errno}`))) });
  });
}

/** One of the private commands. @param what for the message. @throws Error, one line. */
export async function command(link: OriginLink, uri: string, type: number, what: string): Promise<void> {
  try {
    await completed((done) => link.command(type, done));
  } catch (error) {
    throw new Error(`the origin ${uri} refuses to ${what}: ${(error as Error).message}`);
  }
}

/**
 * TAKEOVER once more, after a restart: it changes nothing where the fence holds. @param refused told with the
 * errno.
 */
export function fenceAgain(link: OriginLink, refused: (errno: number) => void): void {
  link.command(Command.XNBD_TAKEOVER, {
    complete: (errno) => {
      if (errno !== 0 && errno !== Errno.ESHUTDOWN) refused(errno);
    },
  });
}
