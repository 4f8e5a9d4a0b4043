import { setTimeout as sleep } from 'node:timers/promises';

/**
 * How often at first, and how seldom in the end: a moment is caught, and a probe that costs is asked rarely.
 */
const OFTEN_MS = 2;
const SELDOM_MS = 50;
/**
 * A probe that runs a program would take the processor from what it waits for: it rests longer than it works.
 */
const LONGEST_MS = 1000;

/**
 * Asks `probe` until its answer is neither undefined nor false, and returns it. The limit is generous,
 * because the machine may be busy.
 * @throws Error after `limitMs`, naming `what`
 */
export async function waitFor<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  limitMs = 30_000,
): Promise<T> {
  const began = performance.now();
  for (;;) {
    const asked = performance.now();
    const answer = await probe();
    if (answer !== undefined && answer !== false) return answer;
    const [waited, cost] = [performance.now() - began, performance.now() - asked];
    if (waited > limitMs) throw new Error(`waited ${limitMs / 1000} s in vain for ${what}`);
    const rest = Math.min(SELDOM_MS, Math.max(OFTEN_MS, waited / 20));
    await sleep(Math.max(rest, Math.min(3 * cost, LONGEST_MS)));
  }
}
