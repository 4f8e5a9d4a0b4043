/** Records what is done meanwhile to the files that are put down in a directory. */
import { leftBy } from './lost-power.ts';
import { forgetOpenFiles, playing } from './recorder.ts';
import type { Clock, Trace, Tree } from './trace.ts';
import { differenceFrom, pathsOf } from './tree.ts';

export interface RecordingOptions {
  root: string;
  clock: Clock;
  /** What was done before is in it, what is done now is added. */
  trace: Trace;
  random: () => number;
  boot: string;
}

/** @throws Error when something was done to the files that the recorder does not know. */
export async function recordWhile(options: RecordingOptions, act: () => Promise<void>): Promise<void> {
  const { root, clock, trace, random, boot } = options;
  forgetOpenFiles();
  playing.bootId = boot;
  // A state that was looked at last may have had storage that came back.
  playing.remounts = 0;
  const slowness = random() * 4;
  playing.recording = {
    root,
    clock,
    trace,
    paths: pathsOf(everythingDone(trace)),
    syncTime: () => random() * slowness,
  };
  await act();
  playing.recording = null;
  const difference = differenceFrom(everythingDone(trace), root);
  if (difference !== undefined) throw new Error(`the trace is not whole: ${difference}`);
}

function everythingDone(trace: Trace): Tree {
  const never = () => 0;
  const moment = Number.POSITIVE_INFINITY;
  return leftBy(trace, { moment, random: never, crashOf: () => 'kill', remembers: true }).tree;
}
