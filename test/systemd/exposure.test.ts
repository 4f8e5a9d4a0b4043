/** What our units may do, as systemd reckons it: no more than this, each exception with its reason in the unit. */
import assert from 'node:assert/strict';
import { cpSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { installed } from '../lab/installed.ts';
import { run } from '../lab/processes.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const UNITS = join(import.meta.dirname, '../../packaging/systemd');

/** The most of `systemd-analyze security`, from 0 (may do nothing) to 10. */
const thresholds: Readonly<Record<string, number>> = {
  'xnbd-gateway.service': 1.5,
  'xnbd-export@.service': 2.0,
  // It ends guests' processes, and removes and gives away files of any owner.
  'xnbdd.service': 4.7,
};

describe('the units', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  before(async function () {
    directory = await temporaryDirectory();
    if (!installed('systemd-analyze')) this.skip();
    for (const unit of readdirSync(UNITS)) {
      cpSync(join(UNITS, unit), join(directory.path, unit));
    }
  });
  after(() => directory.remove());

  it('have a threshold each', () => {
    const services = readdirSync(UNITS).filter((unit) => unit.endsWith('.service'));
    assert.deepEqual(services.sort(), Object.keys(thresholds).sort());
  });

  for (const [unit, threshold] of Object.entries(thresholds)) {
    it(`${unit} is exposed to ${threshold} at most`, async () => {
      const { stdout } = await run(
        ['systemd-analyze', 'security', '--offline=true', '--no-pager', join(directory.path, unit)],
        { check: false },
      );
      const [, exposure] = /Overall exposure level for .*: ([0-9.]+)/.exec(stdout) ?? [];
      assert.ok(Number(exposure) <= threshold, `${exposure}:\n${stdout}`);
      console.log(`      ${exposure}`);
    });
  }

  it('hold no word that systemd does not know', async () => {
    const { stderr } = await run(
      [
        'systemd-analyze',
        'verify',
        '--man=no',
        ...Object.keys(thresholds).map((unit) => join(directory.path, unit)),
      ],
      { check: false },
    );
    // Where the programs are not installed that is all there is to say.
    const faults = stderr
      .split('\n')
      .filter((line) => line !== '' && !/is not executable: No such file/.test(line));
    assert.deepEqual(
      faults.filter((line) => line.includes('xnbd')),
      [],
    );
  });

  it('say why, where they leave out what systemd would have', () => {
    const text = readFileSync(join(UNITS, 'xnbd-export@.service'), 'utf8');
    for (const word of ['MemoryDenyWriteExecute', 'ProcSubset'])
      assert.match(text, new RegExp(`^# .*${word}`, 'm'));
  });
});
