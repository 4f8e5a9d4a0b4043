import assert from 'node:assert/strict';
import { BackgroundWindow } from '../../../src/relocation/copy/background-window.ts';

const CHUNK = 64 * 1024;
const RTT_MS = 10;

let now = 0;

/** Rounds on a path without a queue. @param most chunks to send in each. @returns those sent in the last */
function play(window: BackgroundWindow, rounds: number, most: number): number {
  let sent = 0;
  for (let round = 0; round < rounds; round += 1) {
    sent = 0;
    while (window.open && sent < most) {
      window.sent(CHUNK);
      sent += 1;
    }
    now += RTT_MS;
    for (let answered = 0; answered < sent; answered += 1) window.answered(CHUNK, RTT_MS, now);
  }
  return sent;
}

describe('the window of the background copy', () => {
  it('grows while it is filled and no queue shows', () => {
    const window = new BackgroundWindow();
    assert.equal(play(window, 1, 1000), 2);
    assert.ok(play(window, 8, 1000) > 100);
  });

  it('does not grow while something else holds the copy back', () => {
    const window = new BackgroundWindow();
    play(window, 200, 1);
    assert.ok(play(window, 1, 1000) <= 4, 'a flood when that has ended');
    assert.ok(play(window, 8, 1000) > 100, 'it grows after that');
  });
});
