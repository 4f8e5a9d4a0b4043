/** The story of two machines, in its order. */
import type { Step } from '../step.ts';
import { boot, confined } from './boot.ts';
import { certificates } from './certificates.ts';
import { adopt, startGuest } from './guest.ts';
import { install } from './install.ts';
import { back, move } from './move.ts';

export const steps: readonly Step[] = [
  ...[boot, confined, install, certificates, adopt, startGuest, move, back],
];
