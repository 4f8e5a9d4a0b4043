/**
 * The disk's process is replaced under a guest that writes, twenty times; the guest's own clock says how long it waited.
 *
 * A process takes as long to start as the machine is slow, and this one is emulated. So the pause that is allowed is measured in
 * starts: what is one second on the machine that emulates is as much more here as a start of the same program takes longer.
 */
import { run } from '../../test/lab/processes.ts';
import { tell } from '../bed.ts';
import { servingPid } from '../disk.ts';
import { EXPORT } from '../guest/guest.ts';
import type { Machine } from '../machine/machine.ts';
import type { Step } from '../step.ts';

const TIMES = 20;
/** Of the guest, for one request, on a machine as fast as the one that emulates. */
const PAUSE_LIMIT_MS = 1000;

export const restart: Step = {
  name: 'restart',
  limitS: 1800,
  async run({ guest }) {
    const machine = await guest.where();
    guest.slowestMs = 0;
    await guest.progress(10);
    const usualMs = guest.slowestMs;
    const pauses: number[] = [];
    const before = await slower(machine);
    for (let n = 0; n < TIMES; n++) {
      const pid = await servingPid(machine);
      guest.slowestMs = 0;
      await machine.sh(`xnbdctl restart ${EXPORT}`);
      await guest.progress();
      pauses.push(guest.slowestMs);
      if ((await servingPid(machine)) === pid) throw new Error(`process ${pid} serves ${EXPORT} still`);
    }
    const times = Math.max(before, await slower(machine));
    tell(`longest request around each restart, ms in the guest: ${pauses.join(' ')}; without: ${usualMs}`);
    const longest = Math.max(...pauses);
    const seen = `the guest waited ${longest} ms at most (${usualMs} ms without), on a machine that is ${times.toFixed(0)} times slower`;
    if (longest / times >= PAUSE_LIMIT_MS) throw new Error(seen);
    return `${TIMES} times: ${seen}: ${(longest / times).toFixed(0)} ms; no error`;
  },
};

/** How many times longer Node takes to start there than here. */
async function slower(machine: Machine): Promise<number> {
  const there = Number(
    await machine.sh(
      'a=$(date +%s%N); /usr/lib/xnbd/node -e 0; b=$(date +%s%N); echo $(((b - a) / 1000000))',
    ),
  );
  const begun = performance.now();
  await run([process.execPath, '-e', '0']);
  return Math.max(1, there / (performance.now() - begun));
}
