/**
 * An alarm clock that rings within some tens of microseconds. Timers of the event loop count whole
 * milliseconds and come late, which would be a tenth of a round trip of 20 ms; so a worker thread sleeps in a
 * futex until the moment and then sends a message. Nobody spins: an alarm that is not set costs nothing.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

/** Milliseconds on a clock that both threads share. */
export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

const NEVER = 2n ** 62n;

interface Shared {
  /** [0] grows with each change of the time, and is what the worker sleeps on; [1] 1: end. */
  control: Int32Array;
  /** [0] the time to ring, nanoseconds. */
  time: BigInt64Array;
}

export interface Alarm {
  /** Rings once at `at` (as of `now()`), or at once if that is past; replaces an earlier time. */
  set(at: number): void;
  close(): Promise<void>;
}

export function createAlarm(ring: () => void): Alarm {
  const shared: Shared = {
    control: new Int32Array(new SharedArrayBuffer(8)),
    time: new BigInt64Array(new SharedArrayBuffer(8)),
  };
  shared.time[0] = NEVER;
  const worker = new Worker(new URL(import.meta.url), { workerData: shared });
  let current = Number.POSITIVE_INFINITY;
  worker.on('message', () => {
    current = Number.POSITIVE_INFINITY;
    ring();
  });

  const wake = (): void => {
    Atomics.add(shared.control, 0, 1);
    Atomics.notify(shared.control, 0);
  };
  return {
    set(at) {
      if (at === current) return;
      current = at;
      Atomics.store(shared.time, 0, BigInt(Math.round(at * 1e6)));
      wake();
    },
    async close() {
      Atomics.store(shared.control, 1, 1);
      wake();
      await worker.terminate();
    },
  };
}

function sleepAndRing({ control, time }: Shared): void {
  while (Atomics.load(control, 1) === 0) {
    const change = Atomics.load(control, 0);
    const at = Atomics.load(time, 0);
    const wait = at === NEVER ? Number.POSITIVE_INFINITY : Number(at - process.hrtime.bigint()) / 1e6;
    if (wait > 0) {
      Atomics.wait(control, 0, change, wait);
      continue;
    }
    // Whoever set another time meanwhile has the word: then the old one does not ring.
    if (Atomics.compareExchange(time, 0, at, NEVER) === at) parentPort?.postMessage(null);
  }
}

if (!isMainThread) sleepAndRing(workerData as Shared);
