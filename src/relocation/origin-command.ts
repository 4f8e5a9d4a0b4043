/** What is asked of an origin a few times in a disk's life, as promises. */
import type { OriginLink } from './origin-link.ts';

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
