/**
 * Leases that become void: by an administrator's reclaim, and by a new start of the guest while the disk is
 * lent.
 */
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import sinon from 'sinon';
import { Command, Errno, Option, OptionReply } from '../../../src/nbd/constants.ts';
import { type Attached, type AttachRequest, encodeAttachRequest } from '../../../src/nbd/handshake/attach.ts';
import { readRecord } from '../../../src/store/records/record.ts';
import { callExport } from '../../lab/nbd/call-export.ts';
import { RawClient } from '../../lab/nbd/raw-client.ts';
import { serveTarget, type TestTarget } from '../../lab/nbd/serving.ts';
import { waitFor } from '../../lab/wait-for.ts';

const data = Buffer.alloc(4096, 7);

describe('a void lease', () => {
  let target: TestTarget;
  const clients: RawClient[] = [];

  beforeEach(async () => {
    target = await serveTarget();
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.break();
    await target.remove();
  });

  const guest = async () => {
    const client = await RawClient.open(target.socket, 'd');
    clients.push(client);
    return client;
  };
  const asking = (lease: string, more: Partial<AttachRequest> = {}): AttachRequest => ({
    lease,
    uuid: null,
    generation: 0,
    name: 'd',
    holder: 'b.example:10809',
    ...more,
  });
  const holder = async (lease: string, more: Partial<AttachRequest> = {}) => {
    const client = await RawClient.open(target.socket, 'd', { attach: asking(lease, more) });
    clients.push(client);
    return client;
  };
  /** What a holder is told that attaches. */
  const told = async (lease: string, more: Partial<AttachRequest> = {}) => {
    const client = await RawClient.connect(target.socket);
    clients.push(client);
    return client.attach(asking(lease, more));
  };
  const said = (answer: Attached | string): string => (typeof answer === 'string' ? answer : 'attached');
  const record = async () => (await readRecord(`${target.image}.xnbd`))!;
  const state = () => target.running.export.lender.state;

  it('the fence remembers who took the disk over, and when, also when retired', async () => {
    const remote = await holder(randomUUID());
    assert.equal((await record()).movedTo, null);
    const before = Date.now();
    assert.equal(await remote.command(Command.XNBD_TAKEOVER), 0);
    const { movedTo } = await record();
    assert.equal(movedTo?.host, 'b.example:10809');
    assert.ok(Date.parse(movedTo.at) >= before - 1);
    assert.equal(await remote.command(Command.XNBD_RETIRE), 0);
    assert.deepEqual((await record()).movedTo, movedTo);
  });

  it('reclaimed: the disk is writable here, its generation beyond the holder, whose lease is void for good', async () => {
    const lease = randomUUID();
    const remote = await holder(lease);
    assert.equal(await remote.command(Command.XNBD_TAKEOVER), 0);
    await remote.disconnect();
    await waitFor('the holder to be gone', () => target.running.export.lender.links === 0);
    await callExport(target.ctl, 'reclaim');
    const { state: kept, generation, movedTo, voidLeases } = await record();
    assert.deepEqual([kept, generation, movedTo, voidLeases], ['serving', 3, null, [lease]]);
    assert.equal(await (await guest()).write(0, data), 0);
    for (const round of ['now', 'after a restart']) {
      assert.match(said(await told(lease)), /was reclaimed here by an administrator/, round);
      assert.equal(state(), 'serving');
      await target.restart();
    }
    assert.equal(await (await holder(randomUUID())).command(Command.XNBD_TAKEOVER), 0, 'others may have it');
  });

  it('is not taken from a holder that is alive, nor from nobody', async () => {
    await assert.rejects(callExport(target.ctl, 'reclaim'), /d is serving: there is nothing to reclaim/);
    const remote = await holder(randomUUID());
    await assert.rejects(callExport(target.ctl, 'reclaim'), /d is lent: there is nothing to reclaim/);
    await remote.command(Command.XNBD_TAKEOVER);
    await remote.read(0, 4096);
    await assert.rejects(
      callExport(target.ctl, 'reclaim'),
      /is not lost: b\.example:10809 was heard 0\.\d s ago/,
    );
    assert.equal(state(), 'fenced');
    assert.equal(await (await guest()).write(0, data), Errno.EPERM);
  });

  it('a new guest while the disk is lent ends the lease, and what arrives late for the earlier guest fences nothing', async () => {
    await callExport(target.ctl, 'new-guest');
    const lease = randomUUID();
    const remote = await holder(lease, { epoch: 2 });
    await callExport(target.ctl, 'new-guest');
    assert.equal(state(), 'serving');
    await assert.rejects(remote.command(Command.XNBD_TAKEOVER), 'its connection is cut');
    assert.match(said(await told(lease, { epoch: 2 })), /has had a guest started on it here since/);
    const local = await guest();
    assert.equal(await local.write(0, data), 0);
    const next = await told(randomUUID(), { epoch: 0 });
    assert.equal(typeof next === 'object' && next.epoch, 3);
  });

  it('the first start of a guest ends a lease, too, whose holder comes back with what it was told', async () => {
    const lease = randomUUID();
    const remote = await told(lease);
    assert.ok(typeof remote === 'object' && remote.epoch !== 0, 'that would be any');
    await callExport(target.ctl, 'new-guest');
    assert.match(
      said(await told(lease, { epoch: remote.epoch! })),
      /has had a guest started on it here since/,
    );
    assert.equal(state(), 'serving');
  });

  it('a holder that has all it needs and says so now and then is alive', async () => {
    const remote = await holder(randomUUID());
    assert.equal(await remote.command(Command.XNBD_TAKEOVER), 0);
    const clock = sinon.stub(performance, 'now');
    try {
      const began = 1e9;
      clock.callsFake(() => began);
      await remote.command(Command.XNBD_PING);
      clock.callsFake(() => began + 16_000);
      await assert.rejects(callExport(target.ctl, 'reclaim'), /was heard 16\.0 s ago/);
      clock.callsFake(() => began + 21_000);
      await callExport(target.ctl, 'reclaim');
    } finally {
      clock.restore();
    }
  });

  it('a fence that is being made while our own origin takes the disk back does not open the disk again', async () => {
    const remote = await holder(randomUUID());
    const { lender } = target.running.export;
    target.running.export.writeBegan();
    const fence = remote.command(Command.XNBD_TAKEOVER).catch(() => 'cut');
    await waitFor('the fence', () => state() === 'fencing');
    lender.becomeReclaimed();
    target.running.export.writeEnded(0);
    assert.equal(await fence, 'cut');
    await lender.newGuest().catch(() => undefined);
    assert.equal(state(), 'reclaimed');
    assert.equal(lender.refuses('write', { peer: null, destroy: () => undefined }), Errno.ESHUTDOWN);
  });

  it('of a disk that our own origin has taken back its holder is told, a stranger is not', async () => {
    for (const asked of ['fenced', 'lent'] as const) {
      const lease = randomUUID();
      const remote = await holder(lease);
      if (asked === 'fenced') assert.equal(await remote.command(Command.XNBD_TAKEOVER), 0);
      target.running.export.lender.becomeReclaimed();
      const answers = async (which: string, more: Partial<AttachRequest> = {}) => {
        const client = await RawClient.connect(target.socket);
        clients.push(client);
        const [reply] = await client.option(Option.XNBD_ATTACH, encodeAttachRequest(asking(which, more)));
        return reply!.type;
      };
      assert.equal(await answers(lease), OptionReply.XNBD_ERR_VOID, asked);
      assert.equal(await answers(randomUUID()), OptionReply.ERR_POLICY, 'another lease');
      assert.equal(
        await answers(randomUUID(), { uuid: randomUUID() }),
        OptionReply.ERR_POLICY,
        'another disk',
      );
      await waitFor('the record to know it', async () => (await record()).voidLeases.includes(lease));
      await target.remove();
      target = await serveTarget();
    }
  });

  it('a void lease stays void when the disk has moved on since and retired', async () => {
    const lost = randomUUID();
    await (await holder(lost)).command(Command.XNBD_TAKEOVER);
    for (const client of clients.splice(0)) client.break();
    await waitFor('the holder to be gone', () => target.running.export.lender.links === 0);
    await callExport(target.ctl, 'reclaim');
    const next = await holder(randomUUID());
    assert.equal(await next.command(Command.XNBD_TAKEOVER), 0);
    assert.equal(await next.command(Command.XNBD_RETIRE), 0);
    const client = await RawClient.connect(target.socket);
    clients.push(client);
    const [reply] = await client.option(Option.XNBD_ATTACH, encodeAttachRequest(asking(lost)));
    assert.equal(reply!.type, OptionReply.XNBD_ERR_VOID);
  });

  it('no guest is started on a disk that has moved away', async () => {
    const remote = await holder(randomUUID());
    await remote.command(Command.XNBD_TAKEOVER);
    await assert.rejects(
      callExport(target.ctl, 'new-guest'),
      /d is fenced: no guest can be started on it here/,
    );
    assert.equal((await record()).epoch, 1);
  });
});
