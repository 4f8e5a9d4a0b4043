import { strict as assert } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { link, mkdtemp, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectControl, exportStatus, NobodyAnswers } from '../../src/control/client.ts';
import type { ExportStatus } from '../../src/control/status.ts';
import { openTarget } from '../../src/export/target.ts';
import { Command } from '../../src/nbd/constants.ts';
import { newRecord, readRecord, writeRecord } from '../../src/store/records/record.ts';
import { listenOnUnixSocket } from '../../src/system/unix-socket.ts';
import { callExport } from '../lab/nbd/call-export.ts';
import { RawClient } from '../lab/nbd/raw-client.ts';
import { serveTarget, type TestTarget } from '../lab/nbd/serving.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('control socket', () => {
  let target: TestTarget;

  beforeEach(async () => {
    target = await serveTarget();
  });

  afterEach(() => target.remove());

  it('tells the status, to its owner alone', async () => {
    const status = await exportStatus(target.ctl);
    assert.equal(status.name, 'd');
    assert.equal(status.state, 'serving');
    assert.equal(status.sizeBytes, 16 * 1024 * 1024);
    assert.equal(status.presentBytes, status.sizeBytes);
    assert.equal(status.pid, process.pid);
    assert.equal(status.image, target.image);
    assert.deepEqual([status.clients, status.lease, status.origin, status.error], [0, null, null, null]);
    assert.equal((await stat(target.ctl)).mode & 0o777, 0o600);
  });

  it('tells watchers of clients and bytes', async () => {
    const seen: ExportStatus[] = [];
    const control = await connectControl(target.ctl, (status) => seen.push(status));
    await control.watch();
    assert.equal(seen.length, 1);
    const client = await RawClient.open(target.socket, 'd');
    await waitFor('the client is seen', () => seen.at(-1)!.clients === 1);
    await client.write(0, Buffer.alloc(5000));
    await waitFor('its bytes are seen', () => seen.at(-1)!.writtenBytes === 5000);
    await client.disconnect();
    await waitFor('its leaving is seen', () => seen.at(-1)!.clients === 0);
    control.close();
    await control.closed;
  });

  it('answers a target that cannot take over or be abandoned, methods that are none, and nonsense', async () => {
    await assert.rejects(callExport(target.ctl, 'takeover'), /export d has every block already/);
    await assert.rejects(callExport(target.ctl, 'abandon'), /export d is no relocation: use stop/);
    assert.deepEqual(await callExport(target.ctl, 'source-gone'), { told: false });
    const socket = connect(target.ctl);
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.write('nonsense\n{"id":"x"}\n{"id":7,"method":"explode"}\n{"id":8,"me');
    socket.write('thod":"status"}\n');
    await waitFor('four answers', () => text.includes('"id":8'));
    socket.destroy();
    const answers = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { id: number; error?: string });
    assert.deepEqual(answers.map(({ id, error }) => [id, error?.split(':')[0]]).sort(), [
      [0, 'a request has a number "id" and a string "method"'],
      [0, 'a request is one line of JSON'],
      [7, "no method 'explode'"],
      [8, undefined],
    ]);
  });

  it('drops who sends a line without end', async () => {
    const socket = connect(target.ctl);
    socket.on('error', () => undefined);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.write('x'.repeat(200_000));
    socket.resume();
    await closed;
    assert.equal((await exportStatus(target.ctl)).name, 'd');
  });

  it('stops', async () => {
    const client = await RawClient.open(target.socket, 'd');
    await client.write(0, Buffer.alloc(10));
    assert.equal(await callExport(target.ctl, 'stop'), null);
    assert.equal(await target.running.ended, 0);
    await client.closed();
    await assert.rejects(exportStatus(target.ctl), NobodyAnswers);
  });
});

describe('opening a target', () => {
  let directory: string;
  let image: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'xnbd-target-'));
    image = join(directory, 'd.img');
    await writeFile(image, '');
    await truncate(image, 8192);
  });

  afterEach(() => rm(directory, { recursive: true }));

  const open = (change: object = {}) =>
    openTarget({ name: 'd', image, stateDir: `${image}.xnbd`, readOnly: false, ...change });

  it('keeps its identity from start to start', async () => {
    const first = await open();
    const { uuid } = first.keeper.record;
    await first.close();
    const second = await open();
    assert.equal(second.keeper.record.uuid, uuid);
    await second.close();
  });

  it('refuses what does not belong together, in one line', async () => {
    await assert.rejects(open({ name: 'a/b' }), /export name 'a\/b' is not usable/);
    await assert.rejects(open({ image: join(directory, 'none') }), /no such file/);
    const first = await open();
    await assert.rejects(open(), /is in use by another/);
    await first.close();
    await assert.rejects(open({ name: 'other' }), /belongs to export 'd', not 'other'/);
    const second = join(directory, 'e.img');
    await writeFile(second, Buffer.alloc(8192));
    await assert.rejects(open({ image: second }), /belongs to image .*d\.img, not .*e\.img/);
    await truncate(image, 4096);
    await assert.rejects(open(), /image .*d\.img has 4096 bytes, but export 'd' has 8192: restore its size/);
  });
});

describe('a target whose image has grown', () => {
  it('has grown with it while it is at rest, and is refused while another host knows it', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'xnbd-target-'));
    const [image, stateDir] = [join(directory, 'd.img'), join(directory, 'state')];
    await writeFile(image, Buffer.alloc(8192));
    const open = () => openTarget({ name: 'd', image, stateDir, readOnly: false });
    try {
      await (await open()).close();
      await truncate(image, 12_288);
      const grown = await open();
      assert.equal(grown.disk.size, 12_288);
      await grown.close();
      const record = (await readRecord(stateDir))!;
      assert.equal(record.sizeBytes, 12_288);
      await truncate(image, 16_384);
      await writeRecord(stateDir, { ...record, state: 'fenced', lease: record.uuid });
      await assert.rejects(
        open(),
        /has 16384 bytes, but export 'd' has 12288: restore its size .* this one is fenced/,
      );
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe('opening a target that is none', () => {
  it('says so while it misses blocks, unless it is retired', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'xnbd-target-'));
    const image = join(directory, 'd.img');
    const stateDir = `${image}.xnbd`;
    await writeFile(image, Buffer.alloc(8192));
    const origin = { uri: 'nbd://a.example/d', uuid: null, generation: 1, lease: randomUUID() };
    const open = () => openTarget({ name: 'd', image, stateDir, readOnly: false });
    for (const state of ['standby', 'relocating', 'fenced'] as const) {
      await writeRecord(stateDir, { ...newRecord('d', image, 8192), state, complete: false, origin });
      await assert.rejects(
        open(),
        /export 'd' still misses blocks: start it as a proxy, with its origin nbd:\/\/a/,
      );
    }
    await writeRecord(stateDir, {
      ...newRecord('d', image, 8192),
      state: 'retired',
      complete: false,
      origin,
    });
    await (await open()).close();
    await rm(directory, { recursive: true });
  });
});

describe('a unix socket path', () => {
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'xnbd-socket-'));
  });

  afterEach(() => rm(directory, { recursive: true }));

  it('where somebody answers is taken; a file is not touched; a path may be too long or nowhere', async () => {
    const path = join(directory, 's');
    const first = createServer();
    await listenOnUnixSocket(first, path, 0o600);
    await assert.rejects(
      listenOnUnixSocket(createServer(), path, 0o600),
      /socket .*s is taken: .*stop it, or choose/,
    );
    first.close();
    const file = join(directory, 'file');
    await writeFile(file, 'precious');
    await assert.rejects(listenOnUnixSocket(createServer(), file, 0o600), /file exists and is not a socket/);
    const long = join(directory, 'x'.repeat(120));
    await assert.rejects(listenOnUnixSocket(createServer(), long, 0o600), /longer than 107 bytes/);
    const nowhere = join(directory, 'no', 's');
    await assert.rejects(listenOnUnixSocket(createServer(), nowhere, 0o600), /there is no directory .*no$/);
  });

  it('that a dead process left behind is replaced', async () => {
    const target = await serveTarget();
    const path = join(directory, 's');
    // A socket that was bound and whose process is gone: linked aside before its server unlinks it.
    const dead = createServer();
    await listenOnUnixSocket(dead, join(directory, 'dead'), 0o600);
    await link(join(directory, 'dead'), path);
    dead.close();
    const server = createServer();
    await listenOnUnixSocket(server, path, 0o600);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    server.close();
    const client = await RawClient.open(target.socket, 'd');
    assert.equal(await client.command(Command.FLUSH), 0);
    client.break();
    await target.remove();
  });
});
