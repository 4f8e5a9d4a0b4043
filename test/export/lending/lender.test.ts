import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { exportStatus } from '../../../src/control/client.ts';
import { Command, Errno } from '../../../src/nbd/constants.ts';
import type { Completion } from '../../../src/store/completion.ts';
import { readRecord } from '../../../src/store/records/record.ts';
import { RawClient } from '../../lab/nbd/raw-client.ts';
import { altered, serveTarget, type TestTarget, type TestTargetOptions } from '../../lab/nbd/serving.ts';
import { waitFor } from '../../lab/wait-for.ts';

const { XNBD_TAKEOVER, XNBD_GIVE_BACK, XNBD_RETIRE, XNBD_WAIT_GONE } = Command;
const data = Buffer.alloc(4096, 7);

describe('lender', () => {
  let target: TestTarget | undefined;
  const clients: RawClient[] = [];

  const start = async (options: TestTargetOptions = {}) => {
    target = await serveTarget(options);
    return target;
  };
  const guest = async () => {
    const client = await RawClient.open(target!.socket, 'd');
    clients.push(client);
    return client;
  };
  const holder = async (lease: string) => {
    const attach = { lease, uuid: null, generation: 0, name: 'd' };
    const client = await RawClient.open(target!.socket, 'd', { attach });
    clients.push(client);
    return client;
  };
  const state = () => target!.running.export.lender.state;

  afterEach(async () => {
    for (const client of clients.splice(0)) client.break();
    await target?.remove();
    target = undefined;
  });

  it('lends for as long as the lease has a link', async () => {
    const { served } = await start();
    const lease = randomUUID();
    const client = await RawClient.connect(target!.socket);
    const { uuid, generation } = served.keeper.record;
    const attached = await client.attach({ lease, uuid, generation, name: 'd' });
    assert.deepEqual(attached, { uuid, generation, fenced: false, size: served.disk.size, epoch: 1 });
    assert.equal(state(), 'lent');
    const second = await holder(lease);
    client.break();
    await waitFor('one link left', () => target!.running.export.clients === 0);
    assert.equal(state(), 'lent');
    await second.disconnect();
    await waitFor('lease ended', () => state() === 'serving');
    assert.equal(target!.running.export.lender.lease, null);
  });

  it('refuses another identity, another generation, and a second lease', async () => {
    const { served } = await start();
    const { uuid } = served.keeper.record;
    const ask = async (change: object) => {
      const client = await RawClient.connect(target!.socket);
      clients.push(client);
      const answer = await client.attach({ lease: randomUUID(), uuid, generation: 1, name: 'd', ...change });
      return typeof answer === 'string' ? answer : 'lent';
    };
    assert.match(await ask({ uuid: randomUUID() }), /^export 'd' has uuid .*: it is another disk$/);
    assert.match(await ask({ generation: 2 }), /^export 'd' is of generation 1, not 2$/);
    assert.match(await ask({ name: 'other' }), /no export 'other' here/);
    assert.equal(state(), 'serving');
    await ask({});
    assert.match(await ask({}), /^export 'd' is lent already, to another lease$/);
  });

  it('does not lend what cannot be lent', async () => {
    await start({ alter: (served) => ({ ...served, canLend: () => 'it is in standby' }) });
    await assert.rejects(holder(randomUUID()), /export 'd' cannot be lent: it is in standby/);
  });

  it('lent: the guest reads and writes, the lease holder reads alone', async () => {
    await start();
    const [local, remote] = [await guest(), await holder(randomUUID())];
    assert.equal(await local.write(0, data), 0);
    assert.deepEqual((await remote.read(0, 4096)).data, data);
    assert.equal(await remote.write(0, data), Errno.EPERM);
    assert.equal(await remote.command(Command.TRIM, 0, 4096), Errno.EPERM);
    assert.equal(await local.command(XNBD_TAKEOVER), Errno.EINVAL);
  });

  it('fenced: nobody writes, the lease holder alone reads, and flushing succeeds', async () => {
    await start();
    const lease = randomUUID();
    const [local, remote] = [await guest(), await holder(lease)];
    await local.write(0, data);
    assert.equal(await remote.command(XNBD_TAKEOVER), 0);
    assert.equal(await remote.command(XNBD_TAKEOVER), 0, 'idempotent');
    for (const client of [local, remote]) {
      assert.equal(await client.write(0, Buffer.alloc(4096, 9)), Errno.EPERM);
      assert.equal(await client.command(Command.TRIM, 0, 4096), Errno.EPERM);
      assert.equal(await client.command(Command.WRITE_ZEROES, 0, 4096), Errno.EPERM);
      assert.equal(await client.command(Command.FLUSH), 0);
    }
    assert.equal((await local.read(0, 4096)).errno, Errno.EPERM);
    assert.equal((await local.ask({ type: Command.BLOCK_STATUS, length: 4096 })).errno, Errno.EPERM);
    assert.deepEqual((await remote.read(0, 4096)).data, data);
    const record = await readRecord(`${target!.image}.xnbd`);
    assert.equal(record?.state, 'fenced');
    assert.equal(record.lease, lease);
  });

  it('stays fenced for its lease through a broken link and a restart', async () => {
    await start();
    const lease = randomUUID();
    const first = await holder(lease);
    assert.equal(await first.command(XNBD_TAKEOVER), 0);
    first.break();
    await target!.restart();
    assert.equal(state(), 'fenced');
    await assert.rejects(holder(randomUUID()), /is fenced already, to another lease$/);
    const again = await RawClient.connect(target!.socket);
    clients.push(again);
    const attached = await again.attach({ lease, uuid: null, generation: 0, name: 'd' });
    assert.equal(typeof attached === 'object' && attached.fenced, true);
  });

  it('takeover waits for writes in flight and makes them durable before it answers', async () => {
    const events: string[] = [];
    let finishWrite: (() => void) | undefined;
    await start({
      alter: (served) => {
        const { disk } = served;
        const slow = altered(disk, {
          write: (bytes: Buffer, offset: number, fua: boolean, done: Completion) => {
            const copy = Buffer.from(bytes);
            events.push('write began');
            finishWrite = () => {
              events.push('write ended');
              disk.write(copy, offset, fua, done);
            };
          },
          flush: (done: Completion) => {
            events.push('flush');
            disk.flush(done);
          },
        });
        return { ...served, disk: slow };
      },
    });
    const [local, remote] = [await guest(), await holder(randomUUID())];
    local.send({ type: Command.WRITE, length: 4096, payload: data });
    await waitFor('write in flight', () => finishWrite !== undefined);
    const taken = remote.command(XNBD_TAKEOVER).then((errno) => events.push(`answered ${errno}`));
    await waitFor('fencing', () => state() === 'fencing');
    // A write that comes now is refused, although the fence is not complete.
    const late = await guest();
    assert.equal(await late.write(8192, data), Errno.EPERM);
    assert.deepEqual(events, ['write began']);
    finishWrite!();
    await taken;
    assert.deepEqual(events, ['write began', 'write ended', 'flush', 'answered 0']);
    assert.equal((await local.reply()).errno, 0);
    assert.deepEqual((await remote.read(0, 4096)).data, data);
  });

  it('a takeover whose flush fails answers the error and leaves the disk writable', async () => {
    let failing = true;
    await start({
      alter: (served) => {
        const { disk } = served;
        const flush = (done: Completion) => (failing ? done.complete(Errno.EIO) : disk.flush(done));
        return { ...served, disk: altered(disk, { flush }) };
      },
    });
    const [local, remote] = [await guest(), await holder(randomUUID())];
    assert.equal(await remote.command(XNBD_TAKEOVER), Errno.EIO);
    assert.equal(state(), 'lent');
    assert.equal(await local.write(0, data), 0);
    failing = false;
    assert.equal(await remote.command(XNBD_TAKEOVER), 0);
  });

  it('a takeover whose link breaks before the fence is durable fences nothing', async () => {
    let finishFlush: (() => void) | undefined;
    await start({
      alter: (served) => {
        const { disk } = served;
        const flush = (done: Completion) => {
          if (finishFlush !== undefined) disk.flush(done);
          finishFlush ??= () => disk.flush(done);
        };
        return { ...served, disk: altered(disk, { flush }) };
      },
    });
    const remote = await holder(randomUUID());
    remote.send({ type: XNBD_TAKEOVER });
    await waitFor('flush in flight', () => finishFlush !== undefined);
    remote.break();
    await waitFor('link gone', () => target!.running.export.lender.links === 0);
    assert.equal(state(), 'serving');
    finishFlush!();
    assert.equal((await readRecord(`${target!.image}.xnbd`))?.state, 'serving');
  });

  it('a write that never ends: the fence that waits for it is shown, and ends with its last link', async () => {
    let stuck: Completion | undefined;
    await start({
      alter: (served) => {
        const { disk } = served;
        const write: typeof disk.write = (bytes, offset, fua, done) => {
          if (stuck === undefined) stuck = done;
          else disk.write(bytes, offset, fua, done);
        };
        return { ...served, disk: altered(disk, { write }) };
      },
    });
    const [local, remote] = [await guest(), await holder(randomUUID())];
    local.send({ type: Command.WRITE, length: 4096, payload: data });
    await waitFor('write in flight', () => stuck !== undefined);
    remote.send({ type: XNBD_TAKEOVER });
    await waitFor('fencing', () => state() === 'fencing');
    assert.equal((await exportStatus(target!.ctl)).state, 'fencing');
    remote.break();
    await waitFor('the fence is given up', () => state() === 'serving');
    const other = await guest();
    assert.equal(await other.write(8192, data), 0, 'the guest here writes on');
    const next = await holder(randomUUID());
    const taken = next.command(XNBD_TAKEOVER);
    stuck!.complete(0);
    assert.equal(await taken, 0);
    assert.equal(state(), 'fenced');
  });

  it('give back lifts the fence and ends the lease', async () => {
    await start();
    const [local, remote] = [await guest(), await holder(randomUUID())];
    await remote.command(XNBD_TAKEOVER);
    assert.equal(await remote.command(XNBD_GIVE_BACK), 0);
    assert.equal(state(), 'serving');
    assert.equal(await local.write(0, data), 0);
    assert.deepEqual((await local.read(0, 4096)).data, data);
    assert.equal(await remote.command(XNBD_GIVE_BACK), Errno.EINVAL, 'no lease any more');
    const record = await readRecord(`${target!.image}.xnbd`);
    assert.deepEqual([record?.state, record?.lease], ['serving', null]);
  });

  it('retired: serves nobody, also after a restart', async () => {
    let retired = 0;
    await start({ alter: (served) => ({ ...served, onRetired: () => (retired += 1) }) });
    const [local, remote] = [await guest(), await holder(randomUUID())];
    assert.equal(await remote.command(XNBD_RETIRE), Errno.EINVAL, 'not before the fence');
    await remote.command(XNBD_TAKEOVER);
    assert.equal(await remote.command(XNBD_RETIRE), 0);
    assert.equal(retired, 1);
    assert.equal((await local.read(0, 4096)).errno, Errno.ESHUTDOWN);
    await assert.rejects(guest(), /export 'd' is retired/);
    await target!.restart();
    assert.equal(state(), 'retired');
    await assert.rejects(guest(), /export 'd' is retired/);
    await assert.rejects(holder(randomUUID()), /export 'd' is retired/);
  });

  describe('word that the source is gone', () => {
    it('comes with the orderly disconnect of the last client', async () => {
      await start();
      const [first, second, remote] = [await guest(), await guest(), await holder(randomUUID())];
      const told = remote.command(XNBD_WAIT_GONE);
      await first.disconnect();
      assert.equal(
        await Promise.race([told, second.command(Command.FLUSH).then(() => 'not yet')]),
        'not yet',
      );
      await second.disconnect();
      assert.equal(await told, 0);
      assert.equal(await remote.command(XNBD_WAIT_GONE), 0, 'at once, as it is so already');
    });

    it('does not come when a link breaks, nor after that', async () => {
      await start();
      const [first, second, remote] = [await guest(), await guest(), await holder(randomUUID())];
      first.break();
      await waitFor('link broken', () => target!.running.export.clients === 1);
      await second.disconnect();
      await waitFor('client gone', () => target!.running.export.clients === 0);
      const told = remote.command(XNBD_WAIT_GONE);
      const probe = await guest();
      assert.equal(await Promise.race([told, probe.command(Command.FLUSH).then(() => 'not yet')]), 'not yet');
      assert.equal(target!.running.export.lender.sourceGone(), true);
      assert.equal(await told, 0);
    });

    it('counts from the attaching of a lease on', async () => {
      await start();
      const local = await guest();
      const remote = await holder(randomUUID());
      await local.disconnect();
      assert.equal(await remote.command(XNBD_WAIT_GONE), 0);
      await remote.disconnect();
      await waitFor('lease ended', () => state() === 'serving');
      const next = await holder(randomUUID());
      const told = next.command(XNBD_WAIT_GONE);
      const probe = await guest();
      assert.equal(await Promise.race([told, probe.command(Command.FLUSH).then(() => 'not yet')]), 'not yet');
      await probe.disconnect();
      assert.equal(await told, 0);
    });

    it('with `told` comes from the control socket alone', async () => {
      await start({ sourceGone: 'told' });
      const [local, remote] = [await guest(), await holder(randomUUID())];
      const told = remote.command(XNBD_WAIT_GONE);
      await local.disconnect();
      const probe = await guest();
      assert.equal(await Promise.race([told, probe.command(Command.FLUSH).then(() => 'not yet')]), 'not yet');
      assert.equal(target!.running.export.lender.sourceGone(), true);
      assert.equal(await told, 0);
    });

    it('with `told` reaches a holder whose link was broken when it was said, but not past a new guest', async () => {
      await start({ sourceGone: 'told' });
      const first = await guest();
      const lease = randomUUID();
      (await holder(lease)).break();
      await waitFor('not lent any more', () => state() === 'serving');
      assert.equal(target!.running.export.lender.sourceGone(), false);
      const back = await holder(lease);
      assert.equal(await back.command(XNBD_WAIT_GONE), 0);
      back.break();
      await waitFor('not lent any more', () => state() === 'serving');
      await first.disconnect();
      const probe = await guest();
      const again = await holder(lease);
      const told = again.command(XNBD_WAIT_GONE);
      assert.equal(await Promise.race([told, probe.command(Command.FLUSH).then(() => 'not yet')]), 'not yet');
    });

    it('is ESHUTDOWN when the server stops', async () => {
      await start();
      const remote = await holder(randomUUID());
      const waiting = remote.send({ type: XNBD_WAIT_GONE });
      const flushed = remote.send({ type: Command.FLUSH });
      assert.equal((await remote.reply()).cookie, flushed);
      await target!.running.stop();
      const { cookie, errno } = await remote.reply();
      assert.deepEqual([cookie, errno], [waiting, Errno.ESHUTDOWN]);
    });
  });
});
