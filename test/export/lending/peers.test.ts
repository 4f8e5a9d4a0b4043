/** What hosts of the network may do with a disk here, as the gateway brings them. */
import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { exportStatus } from '../../../src/control/client.ts';
import { writeLine } from '../../../src/log/line.ts';
import { configureLog } from '../../../src/log/log.ts';
import { Command, Errno, Option, OptionReply, TransmissionFlag } from '../../../src/nbd/constants.ts';
import { encodePeer } from '../../../src/nbd/handshake/peer.ts';
import { infoRequest, RawClient } from '../../lab/nbd/raw-client.ts';
import { serveTarget, type TestTarget } from '../../lab/nbd/serving.ts';
import { waitFor } from '../../lab/wait-for.ts';

const { XNBD_TAKEOVER, XNBD_GIVE_BACK, XNBD_RETIRE } = Command;
const data = Buffer.alloc(4096, 7);

describe('a host that the gateway brings', () => {
  let target: TestTarget;
  let said: string[];
  const clients: RawClient[] = [];

  const peer = (name: string) => ({ identity: name, who: `192.0.2.1:4711 (${name})` });
  const open = async (options: Parameters<typeof RawClient.open>[2]) => {
    const client = await RawClient.open(target.socket, 'd', options);
    clients.push(client);
    return client;
  };
  const holder = (lease: string, name: string) =>
    open({ peer: peer(name), attach: { lease, uuid: null, generation: 0, name: 'd' } });
  const state = () => target.running.export.lender.state;

  beforeEach(async () => {
    said = [];
    configureLog({ sink: (_level, line) => said.push(line) });
    target = await serveTarget();
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.break();
    await target.remove();
    configureLog({ sink: writeLine });
  });

  it('reads, and writes nothing, with a lease or without', async () => {
    const guest = await open({});
    assert.equal(await guest.write(0, data), 0);
    for (const attach of [undefined, { lease: randomUUID(), uuid: null, generation: 0, name: 'd' }]) {
      const host = await open({ peer: peer('b.example'), ...(attach && { attach }) });
      assert.deepEqual((await host.read(0, 4096)).data, data);
      assert.equal(await host.write(0, Buffer.alloc(4096)), Errno.EPERM);
      assert.equal(await host.command(Command.TRIM, 0, 4096), Errno.EPERM);
      assert.equal(await host.command(Command.WRITE_ZEROES, 0, 4096), Errno.EPERM);
    }
    assert.deepEqual((await guest.read(0, 4096)).data, data);
  });

  it('is told that the disk is read-only', async () => {
    const client = await RawClient.connect(target.socket);
    clients.push(client);
    await client.option(Option.XNBD_PEER, encodePeer(peer('b.example')));
    const [info] = await client.option(Option.INFO, infoRequest('d'));
    assert.notEqual(info!.data.readUInt16BE(10) & TransmissionFlag.READ_ONLY, 0);
  });

  it('cannot say later that it is another', async () => {
    const client = await RawClient.connect(target.socket);
    clients.push(client);
    await client.option(Option.XNBD_PEER, encodePeer(peer('b.example')));
    const [again] = await client.option(Option.XNBD_PEER, encodePeer(peer('c.example')));
    assert.equal(again!.type, OptionReply.ERR_INVALID);
  });

  it('has its lease to itself: another with the same lease is refused, also after a restart', async () => {
    const lease = randomUUID();
    const b = await holder(lease, 'b.example');
    await assert.rejects(holder(lease, 'c.example'), /is lent already, to another host$/);
    assert.equal(await b.command(XNBD_TAKEOVER), 0);
    b.break();
    await target.restart();
    await assert.rejects(holder(lease, 'c.example'), /is fenced already, to another host$/);
    await assert.rejects(
      open({ attach: { lease, uuid: null, generation: 0, name: 'd' } }),
      /to another host$/,
    );
    const back = await holder(lease, 'b.example');
    assert.equal(await back.command(XNBD_RETIRE), 0);
  });

  it('does not learn the lease of another, nor does a reader of log or status', async () => {
    const lease = randomUUID();
    const b = await holder(lease, 'b.example');
    assert.equal(await b.command(XNBD_TAKEOVER), 0);
    const refused = await holder(randomUUID(), 'c.example').then(
      () => '',
      (error: unknown) => String(error),
    );
    assert.match(refused, /is fenced already, to another lease/);
    const status = await exportStatus(target.ctl);
    for (const text of [refused, JSON.stringify(status), ...said]) assert.ok(!text.includes(lease), text);
    assert.match(status.lease!, /^[0-9a-f]{8}$/);
  });

  it('gives back for all of its connections: none of them reads on', async () => {
    const lease = randomUUID();
    const [first, second] = [await holder(lease, 'b.example'), await holder(lease, 'b.example')];
    assert.equal(await first.command(XNBD_TAKEOVER), 0);
    assert.equal(await first.command(XNBD_GIVE_BACK), 0);
    assert.equal(state(), 'serving');
    await second.closed();
  });

  describe('and a guest that runs on', () => {
    beforeEach(async () => {
      await target.remove();
      target = await serveTarget({ sourceGone: 'told' });
    });

    it('takes the disk over only when libvirt has said that the guest leaves', async () => {
      const guest = await open({});
      const b = await holder(randomUUID(), 'b.example');
      const taken = b.command(XNBD_TAKEOVER);
      for (let round = 0; round < 20; round++) assert.equal(await guest.write(0, data), 0);
      assert.equal(state(), 'lent');
      target.running.export.lender.sourceLeaves();
      assert.equal(await taken, 0);
      assert.equal(await guest.write(0, data), Errno.EPERM);
    });

    it('takes it over when its last client here is gone', async () => {
      const guest = await open({});
      const b = await holder(randomUUID(), 'b.example');
      const taken = b.command(XNBD_TAKEOVER);
      assert.equal(await guest.write(0, data), 0);
      guest.break();
      assert.equal(await taken, 0);
    });

    it('is refused when no such word comes, and the guest notices nothing', async () => {
      target.running.export.lender.guard.limitMs = 50;
      const guest = await open({});
      const b = await holder(randomUUID(), 'b.example');
      assert.equal(await b.command(XNBD_TAKEOVER), Errno.EPERM);
      assert.equal(await guest.write(0, data), 0);
      assert.match(said.join(), /its guest runs on here: libvirt tells of no migration; refused/);
    });

    it('retires nothing that a client of this host is connected to', async () => {
      const guest = await open({});
      const b = await holder(randomUUID(), 'b.example');
      target.running.export.lender.sourceLeaves();
      assert.equal(await b.command(XNBD_TAKEOVER), 0);
      assert.equal(await b.command(XNBD_RETIRE), Errno.EIO);
      guest.break();
      await waitFor('the guest is gone', () => target.running.export.localClients === 0);
      assert.equal(await b.command(XNBD_RETIRE), 0);
    });
  });

  it('that only reads, and leaves, is not taken for the guest that has gone', async () => {
    const guest = await open({});
    const b = await holder(randomUUID(), 'b.example');
    const waited = b.command(Command.XNBD_WAIT_GONE);
    const reader = await open({ peer: peer('c.example') });
    await reader.disconnect();
    await waitFor('the reader is gone', () => target.running.export.clients === 1);
    const first = await Promise.race([waited, guest.write(0, data).then(() => 'the guest writes on')]);
    assert.equal(first, 'the guest writes on');
    await guest.disconnect();
    assert.equal(await waited, 0);
  });
});
