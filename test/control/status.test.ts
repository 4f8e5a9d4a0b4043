import { strict as assert } from 'node:assert';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Variant } from 'dbus-next';
import { connectControl } from '../../src/control/client.ts';
import {
  type ExportStatus,
  emptyStatus,
  readStatus,
  statusRows,
  type VerificationStatus,
} from '../../src/control/status.ts';
import { exportProperties, exportSignatures } from '../../src/daemon/dbus/interfaces.ts';
import { writeLine } from '../../src/log/line.ts';
import { configureLog } from '../../src/log/log.ts';
import { listenOnUnixSocket } from '../../src/system/unix-socket.ts';
import { waitFor } from '../lab/wait-for.ts';

const verification: VerificationStatus = {
  state: 'differs',
  by: 'hashes',
  walkedBytes: 8192,
  comparedBytes: 4096,
  writtenBytes: 0,
  absentBytes: 0,
  differentBytes: 4096,
  different: [{ offset: 0, length: 4096 }],
  doubtfulBytes: 0,
  doubtful: [],
  error: null,
};

describe('a status from another process', () => {
  it('is taken as it is when it is whole', () => {
    const status: ExportStatus = {
      ...emptyStatus,
      name: 'd',
      state: 'relocating',
      badBytes: 4096,
      badRanges: [{ offset: 0, length: 4096, at: 'image' }],
      originDataBytes: 0,
      secondsSinceTakeover: 1.5,
      originReachable: false,
      verification,
    };
    assert.deepEqual(readStatus(JSON.parse(JSON.stringify(status))), status);
  });

  it('that lacks properties, or is none, has the empty values', () => {
    for (const value of [undefined, null, 'x', 7, [], {}]) assert.deepEqual(readStatus(value), emptyStatus);
    const status = readStatus({ name: 'd', state: 'serving', verification: { state: 'passed' } });
    assert.deepEqual(status, {
      ...emptyStatus,
      name: 'd',
      state: 'serving',
      verification: {
        ...verification,
        state: 'passed',
        by: 'data',
        walkedBytes: 0,
        comparedBytes: 0,
        differentBytes: 0,
        different: [],
      },
    });
  });

  it('keeps nothing that is unknown here or of another type', () => {
    const odd = {
      name: 4,
      state: 'petrified',
      generation: '1',
      sizeBytes: -1,
      presentBytes: 1.5,
      pid: 2 ** 40,
      secondsSinceTakeover: null,
      originReachable: 'no',
      origin: {},
      originTimeoutSeconds: [],
      badRanges: [{ offset: 1, length: 'two', at: 'moon' }, 7],
      verification: 'passed',
      heads: 255,
    };
    const badRanges = [{ offset: 1, length: 0, at: 'origin' as const }];
    assert.deepEqual(readStatus(odd), { ...emptyStatus, state: 'unknown', badRanges });
    for (const [name] of statusRows)
      assert.deepEqual(readStatus({ [name]: Symbol('odd') }), emptyStatus, name);
  });

  it('is one that D-Bus can show, whatever it was', () => {
    for (const value of [{}, { verification }, { originDataBytes: 2 ** 53 - 1, pid: 2 ** 32 - 1 }]) {
      const properties = exportProperties(readStatus(value), 'vm1');
      assert.deepEqual(Object.keys(properties), Object.keys(exportSignatures));
      for (const [name, signature] of Object.entries(exportSignatures)) {
        assert.notEqual(properties[name], undefined, name);
        assert.notEqual(properties[name], null, name);
        assert.ok(new Variant(signature, properties[name]));
      }
    }
  });
});

describe('what follows from a status', () => {
  let directory: string;
  let server: Server;
  let peer: Socket;
  let said: string[];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'xnbd-control-'));
    said = [];
    configureLog({ sink: (level, message, { export: name }) => said.push(`${level} ${name}: ${message}`) });
    server = createServer((socket) => {
      peer = socket;
      socket.on('data', (request) => {
        const { id } = JSON.parse(request.toString()) as { id: number };
        socket.write(`${JSON.stringify({ id, result: { name: 'd', generation: 0 } })}\n`);
      });
    });
    await listenOnUnixSocket(server, join(directory, 'ctl'), 0o600);
  });

  afterEach(async () => {
    configureLog({ sink: writeLine });
    server.close();
    await rm(directory, { recursive: true });
  });

  const event = (generation: number): string =>
    `${JSON.stringify({ event: 'status', status: { name: 'd', generation } })}\n`;

  it('may throw: it is logged with the name of the export, once in a row, and the link stays', async () => {
    const seen: number[] = [];
    const client = await connectControl(join(directory, 'ctl'), ({ generation }) => {
      seen.push(generation);
      if (generation % 4 !== 3) throw new Error('no such thing');
    });
    await client.watch();
    for (const generation of [1, 2, 3, 4]) peer.write(event(generation));
    await waitFor('all of them', () => seen.length === 5);
    assert.deepEqual(seen, [0, 1, 2, 3, 4]);
    assert.deepEqual(
      said,
      Array(2).fill('error d: export d: its status (unknown) could not be followed: no such thing'),
    );
    assert.equal((await client.status()).name, 'd');
    client.close();
  });

  it('does not follow from what is no JSON: the link ends', async () => {
    for (const nonsense of ['nonsense\n', 'null\n']) {
      const client = await connectControl(join(directory, 'ctl'), () => undefined);
      await client.watch();
      peer.write(nonsense);
      await client.closed;
    }
  });
});
