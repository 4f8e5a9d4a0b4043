import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Domains } from '../../../src/daemon/registry/domains.ts';
import { newMove, readMoves, writeMove } from '../../../src/daemon/registry/move-file.ts';
import { rememberDeparted, whatDeparted } from '../../../src/store/records/departed.ts';
import { newRecord, readRecord, UnreadableRecord, writeRecord } from '../../../src/store/records/record.ts';
import { RecordKeeper } from '../../../src/store/records/record-keeper.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

type Json = Record<string, unknown>;

/** What a release writes, another reads: each file, with keys that are not known here. */
describe('the files of another release', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  const temporary = () => directory.path;
  const stateDir = () => join(temporary(), 'exports', 'vm1-vda');
  const file = () => join(stateDir(), 'export.json');

  const edit = async (path: string, change: (json: Json) => Json): Promise<void> => {
    await writeFile(path, JSON.stringify(change(JSON.parse(await readFile(path, 'utf8')) as Json)));
  };
  const readJson = async (path: string): Promise<Json> => JSON.parse(await readFile(path, 'utf8')) as Json;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    await writeRecord(stateDir(), newRecord('vm1-vda', '/images/vm1-vda.img', 4096));
  });

  afterEach(() => directory.remove());

  it('a record keeps what a newer release wrote into it', async () => {
    await edit(file(), (json) => ({
      ...json,
      colour: { of: 'green' },
      movedTo: { host: 'b', at: 'today', by: 'train' },
    }));
    const record = await readRecord(stateDir());
    const keeper = new RecordKeeper(stateDir(), record!);
    await keeper.update({ generation: 2 });
    const { generation, colour, movedTo } = await readJson(file());
    assert.deepEqual([generation, colour], [2, { of: 'green' }]);
    assert.deepEqual(movedTo, { host: 'b', at: 'today', by: 'train' });
  });

  it('a record of another version is refused by its version, and nothing is to be moved aside', async () => {
    await edit(file(), (json) => ({ ...json, version: 2 }));
    const { message } = await readRecord(stateDir()).then(
      () => assert.fail('it is taken'),
      (error: unknown) => error as Error,
    );
    assert.match(message, /export\.json is of version 2, .* reads version 1: .* newer/);
    assert.doesNotMatch(message, /aside/);
  });

  it('a value that is not known here is no reason to move a disk aside whose blocks are elsewhere', async () => {
    await edit(file(), (json) => ({ ...json, state: 'hovering' }));
    await assert.rejects(readRecord(stateDir()), (error: Error) => {
      assert.ok(error instanceof UnreadableRecord);
      assert.match(
        error.message,
        /not the record of an export .*hovering.*: if a newer xNBD wrote it, install that/,
      );
      return true;
    });
  });

  it('what became of a deleted disk is known, and keeps what is not', async () => {
    const exports = join(temporary(), 'exports');
    const [uuid, lease, other] = [randomUUID(), randomUUID(), randomUUID()];
    const departed = join(temporary(), 'departed', uuid);
    const record = { ...newRecord('vm1-vda', '/i', 4096), uuid, generation: 3, state: 'retired' as const };
    await rememberDeparted(exports, { ...record, voidLeases: [lease] });
    await edit(departed, (json) => ({ ...json, colour: 'green' }));
    assert.equal(await whatDeparted(exports, { uuid, generation: 1, lease }), 'void');
    await rememberDeparted(exports, { ...record, voidLeases: [other] });
    assert.equal(await whatDeparted(exports, { uuid, generation: 1, lease }), 'void');
    assert.equal((await readJson(departed)).colour, 'green');
  });

  it('a move and a domain keep what is not known', async () => {
    const dir = join(temporary(), 'relocations');
    const move = await newMove({ name: 'vm1', uuid: randomUUID() }, ['vm1-vda']);
    await mkdir(dir);
    await writeMove(dir, move);
    await edit(join(dir, `${move.id}.json`), (json) => ({ ...json, colour: 'green' }));
    const [found] = await readMoves(dir);
    await writeMove(dir, found!);
    assert.equal((await readJson(join(dir, `${move.id}.json`))).colour, 'green');

    const domain = { name: 'vm1', uuid: randomUUID(), exports: ['vm1-vda'], shared: [] };
    const domains = new Domains(temporary());
    await domains.load();
    await domains.use(domain);
    const path = join(temporary(), 'domains', `${domain.uuid}.json`);
    await edit(path, (json) => ({ ...json, colour: 'green' }));
    const next = new Domains(temporary());
    await next.load();
    await next.use({ ...domain, name: 'vm2' });
    assert.deepEqual(await readJson(path), { ...domain, name: 'vm2', colour: 'green' });
  });
});
