import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExportState } from '../../../src/control/status.ts';
import { Moves, type Signal } from '../../../src/daemon/registry/moves.ts';
import { type ExportRecord, newRecord } from '../../../src/store/records/record.ts';

describe('the moves of a host', () => {
  const domain = { name: 'vm1', uuid: randomUUID() };
  const none = () => Promise.resolve(undefined);
  let dir: string;
  let told: string[];
  let heard = true;
  const signal: Signal = (_move, state) => told.push(state);

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'xr-'));
    told = [];
    heard = true;
  });
  afterEach(() => rm(dir, { recursive: true }));

  /** As a daemon that starts. */
  async function open(record: (name: string) => Promise<ExportRecord | undefined> = none): Promise<Moves> {
    const moves = new Moves(dir);
    if (heard) await moves.signalBy(signal);
    await moves.load();
    await moves.catchUp(record);
    return moves;
  }

  const status = (name: string, state: ExportState, presentBytes = 8) => ({
    name,
    state,
    sizeBytes: 8,
    presentBytes,
    onDemandBytes: 1,
    backgroundBytes: 2,
    skippedBytes: 3,
    secondsSinceTakeover: 4,
  });

  it('is complete when its last disk is, however late, and tells each state once', async () => {
    const book = await open();
    const move = await book.begin(domain, ['a', 'b']);
    book.observe(status('a', 'standby'));
    // Of another release: nothing follows from it.
    book.observe(status('a', 'unknown'));
    assert.equal(move.state, 'preparing');
    book.observe(status('a', 'relocating'));
    book.observe(status('a', 'relocating'));
    book.observe(status('a', 'serving'));
    book.observe(status('a', 'lent'));
    assert.equal(move.state, 'relocating');
    book.observe(status('b', 'serving'));
    book.observe(status('b', 'serving'));
    await book.settled();
    assert.equal(move.state, 'completed');
    assert.deepEqual(told, ['relocating', 'completed']);
    await open();
    assert.deepEqual(told, ['relocating', 'completed']);
  });

  it('is not complete when a disk moves on before its last block, but over when it has left', async () => {
    const book = await open();
    const move = await book.begin(domain, ['a']);
    book.observe(status('a', 'relocating', 4));
    book.observe(status('a', 'lent', 5));
    book.observe(status('a', 'fenced', 6));
    await book.settled();
    assert.equal(move.state, 'relocating');
    book.observe(status('a', 'retired', 6));
    assert.equal(move.state, 'completed');
    await book.settled();
  });

  it('goes on where an earlier daemon stopped, from the records', async () => {
    const first = await open();
    await first.begin(domain, ['a', 'b']);
    first.observe(status('a', 'relocating'));
    await first.settled();
    const complete = (name: string) =>
      Promise.resolve<ExportRecord>({
        ...newRecord(name, '/image', 8),
        onDemandBytes: 7,
        relocationSeconds: 1.5,
      });
    const second = await open(complete);
    assert.deepEqual(told, ['relocating', 'completed']);
    assert.equal(second.all()[0]?.disks.a?.onDemandBytes, 7);
    assert.equal(second.all()[0]?.disks.b?.secondsSinceTakeover, 1.5);
  });

  it('keeps what nobody could hear until somebody does', async () => {
    heard = false;
    const first = await open();
    await first.begin(domain, ['a']);
    first.observe(status('a', 'relocating'));
    first.observe(status('a', 'serving'));
    await first.settled();
    const second = await open();
    assert.deepEqual(told, []);
    await second.signalBy(signal);
    await second.signalBy(signal);
    assert.deepEqual(told, ['completed']);
  });

  it('has failed when the host was restarted before the guest arrived', async () => {
    const first = await open();
    const { id } = await first.begin(domain, ['a']);
    const path = join(dir, `${id}.json`);
    await writeFile(path, (await readFile(path, 'utf8')).replace(/"boot": "[^"]*"/, '"boot": "another"'));
    const second = await open();
    assert.deepEqual(told, ['failed']);
    assert.equal(second.ofDomain(domain.uuid), undefined);
    assert.match(second.all()[0]?.reason ?? '', /restarted/);
  });

  it('clears away what a daemon was writing when it was killed', async () => {
    const { id } = await (await open()).begin(domain, ['a']);
    await writeFile(join(dir, `${id}.json.new`), '{"version": 1, "id"');
    await writeFile(join(dir, `${randomUUID()}.json.new`), '');
    const book = await open();
    assert.equal(book.all()[0]?.id, id);
    assert.deepEqual(await readdir(dir), [`${id}.json`]);
  });

  it('takes up what the first release wrote, and writes what that can read', async () => {
    const written = {
      version: 1,
      id: randomUUID(),
      domain,
      state: 'failed',
      announced: false,
      disks: { a: null },
      prepared: true,
      resumed: false,
      reason: 'why not',
      leasedAt: new Date().toISOString(),
      boot: 'an earlier one',
    };
    const path = join(dir, `${written.id}.json`);
    await writeFile(path, JSON.stringify(written));
    const book = await open();
    assert.deepEqual(told, ['failed']);
    assert.equal(book.all()[0]?.reason, 'why not');
    assert.deepEqual(JSON.parse(await readFile(path, 'utf8')), { ...written, announced: true });
  });

  it('leaves a damaged file out, and where it is', async () => {
    await writeFile(join(dir, 'bad.json'), '{"version":1');
    const book = await open();
    assert.deepEqual(book.all(), []);
    assert.deepEqual(await readdir(dir), ['bad.json']);
  });

  it('forgets what has been over for a day, and the last one when its domain comes again', async () => {
    const book = await open();
    book.fail(await book.begin(domain, ['a']), 'why not');
    await book.sweep(Date.now() + 23 * 3600 * 1000);
    assert.equal(book.all().length, 1);
    const again = await book.begin(domain, ['a']);
    assert.deepEqual(book.all(), [again]);
    book.fail(again, 'again');
    await book.settled();
    await book.sweep(Date.now() + 25 * 3600 * 1000);
    assert.deepEqual(await readdir(dir), []);
  });
});
