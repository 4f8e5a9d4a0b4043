/** What goes on and on is two lines: one when it begins, one when it is over, with how often it was met. */
import assert from 'node:assert/strict';
import { writeLine } from '../../src/log/line.ts';
import { configureLog } from '../../src/log/log.ts';
import { Recurring } from '../../src/log/recurring.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('what recurs', () => {
  let lines: string[];

  beforeEach(() => {
    lines = [];
    configureLog({ sink: (_level, message) => lines.push(message) });
  });
  afterEach(() => configureLog({ sink: writeLine }));

  it('is told once, and counted when it is over; another kind has its own line', async () => {
    const errors = new Recurring('warning', 200);
    for (let time = 0; time < 1000; time++) errors.met(`error 5 at ${time}`, { kind: 'error 5' });
    errors.met('error 12');
    assert.equal(lines.length, 2);
    assert.match(lines[0]!, /^error 5 at 0 /);
    await waitFor('the end to be told', () => lines.length > 2);
    assert.deepEqual(lines.slice(2), ['999 times more, and it seems over now: error 5 at 0']);
    errors.met('error 12');
    assert.equal(lines.length, 4, 'it has begun anew');
  });

  it('is bounded in kinds: messages that all differ are no way around', () => {
    const errors = new Recurring('warning');
    for (let time = 0; time < 10_000; time++) errors.met(`message ${time}`);
    assert.ok(lines.length <= 65, `${lines.length} lines`);
  });
});
