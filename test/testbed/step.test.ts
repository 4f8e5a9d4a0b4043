/** The runner of the test bed's steps: what fails is seen, and counts. */
import assert from 'node:assert/strict';
import type { Bed } from '../../testbed/bed.ts';
import { runSteps, type Step } from '../../testbed/step.ts';

describe('the steps of the test bed', () => {
  const ran: string[] = [];
  const bed = { machines: [{ lastWords: () => Promise.resolve('last words') }] } as unknown as Bed;
  const step = (name: string, run: () => Promise<string>, more: Partial<Step> = {}): Step => ({
    name,
    limitS: 5,
    run: () => {
      ran.push(name);
      return run();
    },
    ...more,
  });
  const holds = (): Promise<string> => Promise.resolve('seen');
  const fails = (): Promise<string> => Promise.reject(new Error('broken'));

  /** @returns whether all held, and what was printed */
  async function running(steps: Step[]): Promise<[boolean, string]> {
    ran.length = 0;
    const { stdout } = process;
    const write = stdout.write.bind(stdout);
    let printed = '';
    stdout.write = (text: string | Uint8Array): boolean => {
      printed += String(text);
      return true;
    };
    try {
      return [await runSteps(steps, bed), printed];
    } finally {
      stdout.write = write;
    }
  }

  it('hold only if each holds', async () => {
    const [held, printed] = await running([step('one', holds), step('two', holds)]);
    assert.ok(held);
    assert.match(printed, /one .*seen[\s\S]*two .*seen/);
  });

  it('end with one that fails, and show what the machines said', async () => {
    const [held, printed] = await running([step('one', fails), step('two', holds)]);
    assert.ok(!held);
    assert.deepEqual(ran, ['one']);
    assert.match(printed, /FAILED: broken[\s\S]*last words[\s\S]*two .*not run/);
  });

  it('go on after one that only looks, and have failed all the same', async () => {
    const [held] = await running([step('one', fails, { onlyLooks: true }), step('two', holds)]);
    assert.ok(!held);
    assert.deepEqual(ran, ['one', 'two']);
  });

  it('fail at their limit', async () => {
    const [held, printed] = await running([
      step('one', () => new Promise(() => undefined), { limitS: 0.01 }),
    ]);
    assert.ok(!held);
    assert.match(printed, /not done after 0\.01 s/);
  });
});
