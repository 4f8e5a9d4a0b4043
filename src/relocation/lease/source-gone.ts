/** Standby: waits for the origin's word that the source's guest is gone. */
import type { OriginLink } from '../origin/link.ts';

const ASK_AGAIN_MS = 1000;

/** @param waits is it still of interest? @param gone called once, when it is so. */
export function awaitSourceGone(link: OriginLink, waits: () => boolean, gone: () => void): void {
  link.awaitSourceGone({
    complete: (errno) => {
      if (!waits()) return;
      if (errno === 0) gone();
      else setTimeout(() => waits() && awaitSourceGone(link, waits, gone), ASK_AGAIN_MS).unref();
    },
  });
}
