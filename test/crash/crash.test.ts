/**
 * What a crash leaves, at any moment of a disk's life and move, is what was promised; and a checker that says
 * so finds what is planted.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CrashReport, type PlantedFault, runCrashCheck, summary } from './run-crash-check.ts';

/** Of each seed. A machine that is busy gets through fewer in its time. */
const STATES = 2500;
const MINUTES = 0.75;

describe('after kill -9 or a loss of power', function () {
  this.timeout(280_000);

  it('every block is what the guest may see, every host as it was: a fixed seed, and a new one', async () => {
    const seeds = [20_081, Math.floor(Math.random() * 2 ** 30)];
    const reports = await Promise.all(
      seeds.map((seed) => runCrashCheck({ seed, states: STATES, minutes: MINUTES })),
    );
    for (const report of reports) console.log(`      ${summary(report)}`);
    for (const report of reports) {
      await assertNoFault(report);
      assert.ok(report.powerStates > 100, 'the test would prove little otherwise');
    }
  });
});

describe('the crash checker finds, when planted,', function () {
  this.timeout(280_000);

  const planted: [PlantedFault, RegExp][] = [
    ['map written before data', /^(at the source )?byte /],
    ['map synced before data', /^byte .* is (zeros|what was there at first|write)/],
    ['a flush that skips one connection', /byte /],
    ['a rename without a directory sync', /is gone|comes back|does not start|byte /],
    ['a fence kept only in memory', /the source comes back serving; it was fenced/],
    ['a failed sync that a restart forgets', /^byte /],
    ['a page cache that is trusted by the boot alone', /^byte /],
  ];
  for (const [fault, words] of planted) {
    it(fault, async () => {
      const report = await runCrashCheck({ seed: 1, states: 4000, planted: fault });
      assert.ok(report.fault !== null, `not found in ${report.states} states`);
      assert.match(report.fault.line, words);
    });
  }
});

async function assertNoFault(report: CrashReport): Promise<void> {
  if (report.fault === null) return;
  const path = join(tmpdir(), `xnbd-crash-${report.seed}.txt`);
  await writeFile(path, report.fault.story);
  assert.fail(`${summary(report)}; the story is in ${path}`);
}
