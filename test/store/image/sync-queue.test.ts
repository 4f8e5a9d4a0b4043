import { strict as assert } from 'node:assert';
import fs, { closeSync, openSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import sinon from 'sinon';
import { Errno } from '../../../src/nbd/constants.ts';
import { SyncQueue } from '../../../src/store/image/sync-queue.ts';

type Callback = (error: NodeJS.ErrnoException | null) => void;

describe('sync queue', () => {
  // A disk cannot be told when to finish a sync, nor to fail one.
  let pending: Callback[];
  let fd: number;

  beforeEach(() => {
    pending = [];
    fd = openSync('/dev/null', 'r');
    sinon.stub(fs, 'fdatasync').callsFake((_fd, callback) => void pending.push(callback));
    syncBuiltinESMExports();
  });

  afterEach(() => {
    sinon.restore();
    syncBuiltinESMExports();
    closeSync(fd);
  });

  it('a sync that began before a request does not count for it; those that wait share the next', () => {
    const queue = new SyncQueue(fd, () => Errno.EIO);
    const answered: string[] = [];
    const ask = (name: string) => queue.sync({ complete: () => void answered.push(name) });
    ask('a');
    ask('b');
    ask('c');
    assert.equal(pending.length, 1);
    pending.shift()!(null);
    assert.deepEqual(answered, ['a']);
    assert.equal(pending.length, 1);
    ask('d');
    pending.shift()!(null);
    assert.deepEqual(answered, ['a', 'b', 'c']);
    pending.shift()!(null);
    assert.deepEqual(answered, ['a', 'b', 'c', 'd']);
    assert.equal(pending.length, 0);
  });

  it('no sync succeeds after one has failed', () => {
    const queue = new SyncQueue(fd, () => Errno.EIO);
    const answers: number[] = [];
    const ask = () => queue.sync({ complete: (errno) => void answers.push(errno) });
    ask();
    pending.shift()!(Object.assign(new Error('lost'), { code: 'EIO' }));
    ask();
    pending.shift()!(null);
    assert.deepEqual(answers, [Errno.EIO, Errno.EIO]);
  });
});
