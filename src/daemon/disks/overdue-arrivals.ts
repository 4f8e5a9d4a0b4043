/**
 * Arrivals for which libvirt's `prepare` does not come in time: their disks are given up, so that the source
 * may go on with them.
 */
import type { Host } from '../host.ts';
import { inTheBackground } from '../in-the-background.ts';
import type { Move } from '../registry/move-file.ts';
import { giveUp } from './arrival.ts';

const againMs = 10_000;

/** @returns a function that gives up those which are overdue now, to be called every second or so. */
export function overdueArrivals(host: Host): () => void {
  const { 'prepare-timeout': prepareTimeoutSeconds } = host.config.relocation;
  /**
   * Moves with an attempt under way: it may take long, and more attempts in line would keep the domain's
   * hooks waiting.
   */
  const underWay = new Set<string>();
  /**
   * Since when we have seen moves that wait for `prepare`, by id, ms of `performance.now()`: what the record
   * says is for people, because clocks are set.
   */
  const seenAt = new Map<string, number>();
  const waits = (move: Move): boolean => move.state === 'preparing' && !move.prepared;
  const isOverdue = (move: Move): boolean =>
    waits(move) &&
    performance.now() - (seenAt.get(move.id) ?? Number.POSITIVE_INFINITY) > prepareTimeoutSeconds * 1000;

  const attempt = async (move: Move): Promise<void> => {
    underWay.add(move.id);
    try {
      await host.queue.run(move.domain.uuid, async () => {
        if (isOverdue(move))
          await giveUp(host, move, `libvirt did not go on within ${prepareTimeoutSeconds} s`);
      });
    } finally {
      setTimeout(() => underWay.delete(move.id), againMs).unref();
    }
  };

  return () => {
    const waiting = host.moves.all().filter(waits);
    const ids = new Set(waiting.map(({ id }) => id));
    for (const id of seenAt.keys()) if (!ids.has(id)) seenAt.delete(id);
    for (const move of waiting) {
      if (!seenAt.has(move.id)) seenAt.set(move.id, performance.now());
      if (!isOverdue(move) || underWay.has(move.id)) continue;
      inTheBackground(`the move of ${move.domain.name} could not be given up`, attempt(move));
    }
  };
}
