import { log } from '../log/log.ts';

/** Work that nothing waits for. @param failure what is logged, with the reason, when it fails. */
export function inTheBackground(failure: string, work: Promise<void>): void {
  work.catch((error: unknown) => log.error(`${failure}: ${(error as Error).message}`));
}
