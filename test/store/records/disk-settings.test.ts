import { strict as assert } from 'node:assert';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type DiskSettingValues,
  diskRows,
  parseSettingArgument,
  settingArguments,
} from '../../../src/config/settings.ts';
import { DiskSettings } from '../../../src/store/records/disk-settings.ts';
import { newRecord, readRecord, writeRecord } from '../../../src/store/records/record.ts';
import { RecordKeeper } from '../../../src/store/records/record-keeper.ts';

describe('the settings of a disk', () => {
  let stateDir: string;

  beforeEach(async () => {
    stateDir = await mkdtemp(join(tmpdir(), 'xnbd-settings-'));
    await writeRecord(stateDir, newRecord('d', '/images/d.img', 8192));
  });

  afterEach(() => rm(stateDir, { recursive: true }));

  /** As an export that starts. */
  const open = async (given: Partial<DiskSettingValues> = {}): Promise<DiskSettings> =>
    new DiskSettings(new RecordKeeper(stateDir, (await readRecord(stateDir))!), given);

  it('are the defaults, unless the export was started with others', async () => {
    const { texts } = await open();
    assert.deepEqual(
      Object.keys(texts),
      diskRows.map(([name]) => name),
    );
    assert.deepEqual([texts['origin-timeout'], texts['verify']], ['none', 'off']);
    const settings = await open({ 'origin-timeout': null, verify: true });
    assert.deepEqual([settings.value('origin-timeout'), settings.value('verify')], [null, true]);
  });

  it('chosen for this disk come first, over restarts, until the choice is undone', async () => {
    const settings = await open({ 'origin-timeout': 600 });
    const followed: (number | null)[] = [];
    settings.follow('origin-timeout', (seconds) => followed.push(seconds));
    assert.equal(await settings.choose('origin-timeout', 'none'), 'none');
    assert.equal(await settings.choose('origin-timeout', '007'), '7');
    assert.deepEqual(followed, [null, 7]);
    const again = await open({ 'origin-timeout': 600 });
    assert.equal(again.value('origin-timeout'), 7);
    assert.equal(await again.choose('origin-timeout', 'default'), '600');
    assert.equal((await open()).value('origin-timeout'), null);
  });

  it('are refused where they are unknown, fixed or written wrongly, and nothing changes', async () => {
    const settings = await open();
    const before = await readFile(join(stateDir, 'export.json'), 'utf8');
    for (const [key, text, reason] of [
      ['mood', 'good', /no setting 'mood': there are origin-timeout, /],
      ['toString', 'x', /no setting 'toString'/],
      ['verify', 'on', /verify cannot be changed while the export runs/],
      ['origin-timeout', '0', /origin-timeout = 0: allowed is a number of seconds from 1 to 86400, or none/],
    ] as const)
      await assert.rejects(settings.choose(key, text), reason);
    assert.equal(await readFile(join(stateDir, 'export.json'), 'utf8'), before);
  });

  it('of other releases: the one there was is taken over, and what means nothing here is left alone', async () => {
    const path = join(stateDir, 'export.json');
    const record = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
    delete record['settings'];
    for (const [originTimeout, value] of [
      [30, 30],
      ['none', null],
    ]) {
      await writeFile(path, JSON.stringify({ ...record, originTimeout }));
      assert.equal((await open({ 'origin-timeout': 600 })).value('origin-timeout'), value);
    }
    await writeFile(
      path,
      JSON.stringify({ ...record, settings: { mood: 'good', 'origin-timeout': 'soon' } }),
    );
    const settings = await open();
    assert.equal(settings.value('origin-timeout'), null);
    await settings.choose('origin-timeout', '5');
    assert.deepEqual((await readRecord(stateDir))!.settings, { mood: 'good', 'origin-timeout': '5' });
  });

  it('travel on a command line', async () => {
    const given: Partial<DiskSettingValues> = { 'origin-timeout': 60, verify: true };
    const settings = await open(given);
    const values = Object.fromEntries(
      diskRows.map(([name]) => [name, settings.value(name)]),
    ) as unknown as DiskSettingValues;
    const words = settingArguments(values);
    assert.equal(words.length, 2 * diskRows.length);
    for (const word of ['origin-timeout=60', 'verify=on'])
      assert.equal(words[words.indexOf(word) - 1], '--set', word);
    const read = words.filter((word) => word !== '--set').map(parseSettingArgument);
    assert.deepEqual(Object.assign({}, ...read), values);
    assert.throws(() => parseSettingArgument('verify'), /allowed is KEY=VALUE/);
    assert.throws(() => parseSettingArgument('verify=perhaps'), /verify = perhaps: allowed is off or on/);
  });
});
