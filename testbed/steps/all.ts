/** The story of two machines, in its order. */
import type { Step } from '../step.ts';
import { boot, confined } from './boot.ts';
import { certificates, ownCa } from './certificates.ts';
import { adopt, startGuest } from './guest.ts';
import { install } from './install.ts';
import { exposure, journal, units } from './look.ts';
import { back, move } from './move.ts';
import { reboot } from './reboot.ts';
import { remove } from './remove.ts';
import { restart } from './restart.ts';
import { upgrade } from './upgrade.ts';

export const steps: readonly Step[] = [
  ...[boot, confined, install, ownCa, certificates, adopt, startGuest, move, back],
  ...[units, journal, exposure, restart, upgrade, reboot, remove],
];
