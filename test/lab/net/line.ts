/**
 * One direction of an emulated wide area network: a bottleneck that all connections share, and the way behind
 * it.
 *
 * A piece of data waits in a first-in first-out queue until the line is free, takes its length divided by the
 * rate to be sent, and arrives half a round trip later. None of this needs a queue of its own for the
 * bottleneck: the line is busy until a known time, the depth of the queue is that time from now, and the time
 * of arrival is known when the data comes in. So what is kept is the list of arrivals, which is in order by
 * itself.
 *
 * The queue is bounded. When it is full nobody reads from the senders until it is half empty: they feel
 * backpressure as from a network that never drops. What is counted is payload: no packet headers.
 */
import { now } from './alarm.ts';

/** Pieces are sent one after the other, so that a large one arrives bit by bit and others come in between. */
const PIECE = 16 * 1024;
/**
 * Milliseconds that waking up, and reading and writing on the way, cost in each direction; delivery is that
 * much early.
 */
const LEAD = 0.4;

export interface LineOptions {
  /** Milliseconds one way. */
  delay: number;
  /** Bytes a millisecond; Infinity: no limit. */
  rate: number;
  /** Bytes that may wait for the line. */
  queue: number;
}

interface Arrival {
  at: number;
  deliver: () => void;
}

export interface Line {
  readonly bytes: number;
  /** The queue has no room: stop reading until `onRoom`. */
  readonly full: boolean;
  /** Data enters the queue; `deliver` gets it piece by piece. */
  send(data: Buffer, deliver: (piece: Buffer) => void): void;
  /** Something without length (end, reset) that must arrive after everything sent before. */
  sendMark(deliver: () => void): void;
  /** Delivers what is due. @returns the time (as of `now()`) to call again; Infinity: nothing under way. */
  pump(): number;
  /** Drops everything under way. */
  clear(): void;
}

/** @param onRoom called from `pump` when a full queue has room again. */
export function createLine(options: LineOptions, onRoom: () => void): Line {
  const { delay, rate, queue } = options;
  let arrivals: Arrival[] = [];
  let next = 0;
  let busyUntil = 0;
  let bytes = 0;
  let full = false;

  /** When the queue will be half empty. */
  const roomAt = (): number => busyUntil - queue / 2 / rate;

  const enter = (length: number, deliver: () => void): void => {
    busyUntil = Math.max(now(), busyUntil) + length / rate;
    arrivals.push({ at: busyUntil + delay, deliver });
  };

  return {
    get bytes() {
      return bytes;
    },
    get full() {
      return full;
    },
    send(data, deliver) {
      for (let at = 0; at < data.length; at += PIECE) {
        const piece = data.subarray(at, at + PIECE);
        enter(piece.length, () => {
          bytes += piece.length;
          deliver(piece);
        });
      }
      if ((busyUntil - now()) * rate >= queue) full = true;
    },
    sendMark(deliver) {
      enter(0, deliver);
    },
    pump() {
      const due = now() + LEAD;
      if (full && roomAt() <= due) {
        full = false;
        onRoom();
      }
      while (next < arrivals.length && arrivals[next]!.at <= due) arrivals[next++]!.deliver();
      if (next > 1024 || next === arrivals.length) {
        arrivals = arrivals.slice(next);
        next = 0;
      }
      const arrival = arrivals[next]?.at ?? Number.POSITIVE_INFINITY;
      return (full ? Math.min(arrival, roomAt()) : arrival) - LEAD;
    },
    clear() {
      arrivals = [];
      next = 0;
      busyUntil = 0;
      if (full) {
        full = false;
        onRoom();
      }
    },
  };
}
