/** An export that is a service: what it leaves in its store when it is told to end, the next process goes on with. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportStatus } from '../../../src/control/client.ts';
import { Command } from '../../../src/nbd/constants.ts';
import { ServiceManager } from '../../lab/host/service-manager.ts';
import { callExport } from '../../lab/nbd/call-export.ts';
import { encodeRawRequest, RawClient } from '../../lab/nbd/raw-client.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';
import { waitFor } from '../../lab/wait-for.ts';

const MIB = 1024 * 1024;
const PROGRAM = join(import.meta.dirname, '../../../src/bin/xnbd-export.ts');

describe('an export that is a service', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let manager: ServiceManager;
  let socket: string;
  let argv: string[];
  const clients: RawClient[] = [];
  const data = randomBytes(MIB);

  beforeEach(async () => {
    directory = await temporaryDirectory();
    socket = join(directory.path, 's');
    const image = join(directory.path, 'a.img');
    await writeFile(image, '');
    await truncate(image, 16 * MIB);
    manager = new ServiceManager(directory.path);
    argv = [process.execPath, PROGRAM, 'target', 'disk', '--image', image, '--socket', socket];
    await manager.start(argv);
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.break();
    await manager.end('SIGKILL');
    manager.close();
    await directory.remove();
  });
  const open = async () => {
    const client = await RawClient.open(socket, 'disk');
    clients.push(client);
    return client;
  };

  it('is restarted under its clients, and leaves nothing in the store that it has taken', async () => {
    const [client, ...others] = await Promise.all(Array.from({ length: 210 }, open));
    assert.equal(await client!.write(0, data), 0);
    const write = { type: Command.WRITE, offset: MIB, length: MIB, payload: data, cookie: 9n };
    const bytes = encodeRawRequest(write);
    for (let times = 0; times < 3; times++) {
      client!.socket.write(bytes.subarray(0, 1000 * (times + 1)));
      await sleep(30);
      assert.equal(await manager.end(), 0);
      // The state, two listeners, the connections.
      assert.equal(manager.store.length, 1 + 2 + 210);
      await manager.start(argv);
      await waitFor('the store to be empty', () => manager.store.length === 0);
      client!.socket.write(bytes.subarray(1000 * (times + 1)));
      const { errno, cookie } = await client!.reply();
      assert.deepEqual([errno, cookie], [0, 9n]);
    }
    assert.deepEqual((await client!.read(MIB, MIB)).data, data);
    for (const other of others) assert.equal(await other.command(Command.FLUSH), 0);
    assert.equal((await exportStatus(`${socket}.ctl`)).clients, 210);
    assert.match(
      manager.said(),
      /took over from process \d+ \(release .*\): 210 connections, which waited \d+ ms/,
    );
  });

  it('keeps its clients when the first process that is started after it fails', async () => {
    const client = await open();
    assert.equal(await client.write(0, data), 0);
    await manager.end();
    await manager.start(['false']);
    await manager.start(argv);
    assert.deepEqual((await client.read(0, MIB)).data, data);
  });

  it('forgets a client that has left in between', async () => {
    const [client, leaving] = [await open(), await open()];
    await manager.end();
    leaving.break();
    await manager.start(argv);
    assert.equal(await client.command(Command.FLUSH), 0);
    await waitFor('its end', async () => (await exportStatus(`${socket}.ctl`)).clients === 1);
  });

  it('answers no request twice: a process that has died with what it took is followed by one that begins anew', async () => {
    const client = await open();
    await manager.end();
    manager.neverDrops = 'xnbd-state';
    await manager.start(argv);
    assert.equal(await client.write(0, data), 0);
    await manager.end('SIGKILL');
    await client.closed();
    assert.deepEqual(
      manager.store.map(({ name }) => name),
      ['xnbd-state'],
    );
    await manager.start(argv);
    const again = await open();
    assert.deepEqual((await again.read(0, MIB)).data, data);
    assert.equal((await exportStatus(`${socket}.ctl`)).clients, 1);
  });

  it('loses its clients when it is stopped, and leaves no socket', async () => {
    const client = await open();
    assert.equal(await client.write(0, data), 0);
    await callExport(`${socket}.ctl`, 'stop');
    await client.closed();
    await manager.end();
    assert.equal(manager.store.length, 0);
    assert.ok(!existsSync(socket));
  });

  it('is not replaced from within', async () => {
    await assert.rejects(
      callExport(`${socket}.ctl`, 'restart'),
      /its process is systemd's: systemctl restart/,
    );
  });
});
