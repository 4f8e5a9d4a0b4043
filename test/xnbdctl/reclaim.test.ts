/** `xnbdctl reclaim` asks the host that the disk went to before it takes anything back. */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadConfig } from '../../src/config/config.ts';
import { type Gateway, startGateway } from '../../src/gateway/gateway.ts';
import { listenPlain } from '../../src/gateway/transport.ts';
import { type ExportRecord, newRecord, readRecord, writeRecord } from '../../src/store/records/record.ts';
import { reclaim } from '../../src/xnbdctl/reclaim.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

describe('reclaim', () => {
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>;
  let holder: Gateway;
  const path = (...parts: string[]) => join(scratch.path, ...parts);
  const record = newRecord('vm1-vda', '/x.img', 4096);
  const lease = '5f0c2d0e-6a0b-4f5e-9b55-0d2f0c9b3a11';

  beforeEach(async () => {
    scratch = await temporaryDirectory();
    for (const place of ['a/run', 'a/exports', 'b/run']) await mkdir(path(place), { recursive: true });
    holder = await startGateway({
      run: path('b/run'),
      records: path('b/exports'),
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    const movedTo = { host: `127.0.0.1:${holder.address.port}`, at: '2026-01-01T00:00:00.000Z' };
    await writeRecord(path('a/exports/vm1-vda'), { ...record, state: 'retired', lease: null, movedTo });
    await writeFile(
      path('xnbd.conf'),
      `[paths]\nrun = ${path('a/run')}\nexports = ${path('a/exports')}\nimages = ${path('a')}\n[gateway]\ntls = off\n`,
    );
  });
  afterEach(async () => {
    await holder.close(0);
    await scratch.remove();
  });

  const said: string[] = [];
  const reclaimed = async (force: boolean) => {
    said.length = 0;
    const config = await loadConfig(path('xnbd.conf'));
    return await reclaim(config, { name: 'vm1-vda', force, tell: (line) => said.push(line) });
  };
  const stateAtA = async () => (await readRecord(path('a/exports/vm1-vda')))!.state;
  const atB = (changes: Partial<ExportRecord>) =>
    writeRecord(path('b/exports/vm1-vda'), { ...record, generation: 2, ...changes });

  it('is refused, by force too, when that host has handed the disk on', async () => {
    await atB({ state: 'retired' });
    for (const force of [false, true])
      await assert.rejects(reclaimed(force), /is not lost: it moved vm1-vda on\. .*nothing was changed$/);
    assert.equal(await stateAtA(), 'retired');
  });

  for (const [what, there] of [
    ['has the disk and does not serve it', { state: 'fenced', lease }],
    ['knows no such disk', null],
  ] as const) {
    it(`from a host that ${what}: by force alone, and it says that a third may have it`, async () => {
      if (there !== null) await atB(there);
      await assert.rejects(reclaimed(false), /nothing was changed\. If .* is lost for good/);
      assert.equal(await stateAtA(), 'retired');
      assert.match(said.join('\n'), /moved the disk on to a third host, the newest data is there/);
      assert.match(await reclaimed(true), /reclaimed; this host owns the disk/);
      assert.equal(await stateAtA(), 'serving');
    });
  }
});
