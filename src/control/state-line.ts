/** What a disk does, in one line, for those who have room for one. */
import type { ExportStatus } from './status.ts';

/** `relocating: 41.2 % here; origin nbds://a.example:10809/vm1-vda is unreachable: ...; 1 client` */
export function stateLine(status: ExportStatus): string {
  const { state, presentBytes, sizeBytes, origin, originReachable, originUnreachableReason } = status;
  const here = sizeBytes === 0 ? 100 : (100 * presentBytes) / sizeBytes;
  const parts = [
    presentBytes < sizeBytes ? `${state}: ${floorTenth(here)} % here` : state,
    ...(status.movedTo === null
      ? []
      : [`moved to ${status.movedTo === '' ? 'another host' : status.movedTo}`]),
    ...(origin === null ? [] : [`origin ${origin}`]),
    ...(originReachable ? [] : [`unreachable: ${originUnreachableReason}`]),
    ...(status.requestsWaiting === 0 ? [] : [`${status.requestsWaiting} requests wait for it`]),
    ...(status.copyPaused === null ? [] : [`the copy pauses: ${status.copyPaused}`]),
    ...(status.error === null ? [] : [`error: ${status.error}`]),
    `${status.clients} ${status.clients === 1 ? 'client' : 'clients'}`,
  ];
  return parts.join('; ');
}

/** 99.96 is not yet 100. */
function floorTenth(percent: number): string {
  return (Math.floor(percent * 10) / 10).toFixed(1);
}
