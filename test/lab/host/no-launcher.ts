import type { Launcher } from '../../../src/daemon/exports/launcher.ts';

function refuse(): never {
  throw new Error('this test starts no export');
}

/** For a test in which no export is started. */
export const noLauncher: Launcher = {
  startsAtOnce: true,
  start: refuse,
  found: refuse,
  kill: refuse,
  killStrays: refuse,
  hostGoesDown: () => Promise.resolve(false),
};
