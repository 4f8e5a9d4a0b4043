/**
 * A handful of relocations under kill -9, cuts and stalls with every test run. The long one is `npm run
 * chaos`.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { describePlan, makePlan } from './plan.ts';
import { runChaos } from './run.ts';

const top = join(import.meta.dirname, '../..');

describe('chaos', function () {
  this.timeout(150_000);

  before(async function () {
    try {
      await promisify(execFile)('openssl', ['version']);
    } catch {
      console.log('      (openssl is not installed)');
      this.skip();
    }
    await promisify(execFile)(process.execPath, [join(top, 'scripts/build.ts')], { cwd: top });
  });

  it('makes the same plan of the same number', () => {
    for (let seed = 0; seed < 200; seed++) assert.deepEqual(makePlan(seed), makePlan(seed));
  });

  it('plans everything that it can do', () => {
    const lines = Array.from({ length: 600 }, (_, seed) => describePlan(makePlan(seed))).flat();
    const victims = ['source', 'destination', 'upstream', 'source daemon', 'destination daemon', 'gateway'];
    for (const phase of ['arriving', 'standby', 'takeover', 'relocating', 'complete']) {
      for (const what of [
        ...victims.map((whom) => `kill ${whom}`),
        'freeze source',
        'restart source',
        'restart destination',
        'cut link',
        'stall link',
      ])
        assert.ok(
          lines.some((line) => line.trim().startsWith(phase) && line.includes(`: ${what},`)),
          `${phase}: ${what}`,
        );
    }
  });

  it('loses no byte in six relocations', async () => {
    const directory = await temporaryDirectory();
    const told: string[] = [];
    try {
      const result = await runChaos({
        dir: directory.path,
        seed: Math.floor(Math.random() * 2 ** 32),
        minutes: 0.4,
        relocations: 6,
        print: (line) => told.push(line),
      });
      assert.equal(result.failures, 0, told.join('\n'));
      assert.ok(result.moves > 0 && result.requests > 100, told.join('\n'));
    } finally {
      await directory.remove();
    }
  });
});
