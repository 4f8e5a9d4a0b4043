/** The disk's process is replaced under a guest that writes, twenty times; the guest's own clock says how long it waited. */
import { tell } from '../bed.ts';
import { diskOf } from '../disk.ts';
import { EXPORT } from '../guest/guest.ts';
import type { Step } from '../step.ts';

const TIMES = 20;
/** Of the guest, for one request. */
const PAUSE_LIMIT_MS = 1000;

export const restart: Step = {
  name: 'restart',
  limitS: 900,
  async run({ guest }) {
    const machine = await guest.where();
    await guest.progress();
    guest.slowestMs = 0;
    await guest.progress(10);
    const usualMs = guest.slowestMs;
    const pauses: number[] = [];
    for (let n = 0; n < TIMES; n++) {
      const { pid } = await diskOf(machine);
      guest.slowestMs = 0;
      await machine.sh(`xnbdctl restart ${EXPORT}`);
      await guest.progress();
      pauses.push(guest.slowestMs);
      if ((await diskOf(machine)).pid === pid) throw new Error(`process ${pid} serves ${EXPORT} still`);
    }
    tell(`longest request around each restart, ms in the guest: ${pauses.join(' ')}; without: ${usualMs}`);
    const longest = Math.max(...pauses);
    if (longest >= PAUSE_LIMIT_MS)
      throw new Error(`the guest waited ${longest} ms, ${usualMs} ms without a restart`);
    return `${TIMES} times: the guest waited ${longest} ms at most (${usualMs} ms without), and saw no error`;
  },
};
