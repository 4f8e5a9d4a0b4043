import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Running, run, start } from '../../processes.ts';
import { temporaryDirectory } from '../../temporary-directory.ts';
import { waitFor } from '../../wait-for.ts';
import { addressOf, PacketWan, type PacketWanOptions, whyNoPackets } from './packet-wan.ts';

const PORT = 5000;
const BYTES = 1_000_000;
/** Sends so many bytes to each that connects, and then whatever it is sent. */
const SERVER = `require('node:net').createServer((socket) => {
  socket.on('error', () => undefined);
  socket.write(Buffer.alloc(${BYTES}, 'packets'));
  socket.pipe(socket);
}).listen(${PORT}, '${addressOf.a}', () => console.log('listening'));`;
/** Takes those bytes, then bounces one. Prints their hash and how long either took, ms. */
const CLIENT = `const { createHash } = require('node:crypto');
const began = performance.now();
let bytes = 0, sent = 0, took = 0;
const hash = createHash('sha256');
const socket = require('node:net').connect(${PORT}, '${addressOf.a}');
socket.on('data', (data) => {
  bytes += data.length;
  if (bytes <= ${BYTES}) hash.update(data);
  if (bytes === ${BYTES}) { took = performance.now() - began; sent = performance.now(); socket.write('x'); }
  if (bytes > ${BYTES}) {
    console.log(JSON.stringify({ hash: hash.digest('hex'), took, bounce: performance.now() - sent }));
    socket.destroy();
  }
});`;

interface Told {
  hash: string;
  took: number;
  bounce: number;
}

describe('a WAN of packets', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let wan: PacketWan | undefined;
  let server: Running | undefined;

  before(function () {
    const lacking = whyNoPackets();
    if (lacking === null) return;
    console.log(`      (${lacking})`);
    this.skip();
  });

  beforeEach(async () => {
    directory = await temporaryDirectory();
  });

  afterEach(async () => {
    await server?.end('SIGKILL');
    await wan?.stop();
    [server, wan] = [undefined, undefined];
    await directory.remove();
  });

  async function begin(options: PacketWanOptions): Promise<PacketWan> {
    wan = await PacketWan.start(options);
    const log = `${directory.path}/server.log`;
    server = await start(wan.at('a', [process.execPath, '-e', SERVER]), { log });
    await waitFor('the server', () => server?.said().includes('listening'));
    return wan;
  }

  async function take(line: PacketWan): Promise<Told> {
    const { stdout } = await run(line.at('b', [process.execPath, '-e', CLIENT]));
    return JSON.parse(stdout) as Told;
  }

  it('carries TCP, no faster than its rate and its delay', async () => {
    const line = await begin({ rttMs: 40, rateMbit: 20 });
    const { hash, took, bounce } = await take(line);
    assert.equal(hash, createHash('sha256').update(Buffer.alloc(BYTES, 'packets')).digest('hex'));
    // The connection takes a round trip, the bytes 0.4 s and half a round trip.
    assert.ok(took >= 40 + 400 + 20 - 1, `${BYTES} bytes in ${took} ms`);
    assert.ok(bounce >= 39.5, `there and back in ${bounce} ms`);
    const { ab } = await line.stats();
    assert.ok(ab.bytes > BYTES && ab.packets >= BYTES / 1460, JSON.stringify(ab));
  });

  it('drops what its queue cannot take, and what is to be lost: TCP sends it again', async () => {
    const line = await begin({ rttMs: 10, rateMbit: 20, queueBytes: 20_000 });
    await line.set('ab', { loss: 2, jitter: 3 });
    const { hash } = await take(line);
    assert.equal(hash, createHash('sha256').update(Buffer.alloc(BYTES, 'packets')).digest('hex'));
    const { ab } = await line.stats();
    assert.ok(ab.dropped > 0, 'a queue of 20 000 bytes drops some of what begins');
    assert.ok(ab.lost > 0, 'of 700 packets 2 % are lost');
  });

  it('has a rate in each direction, which changes while packets wait', async () => {
    const line = await begin({ rttMs: 2, rateMbit: 0, queueBytes: 1e7 });
    await line.set('ab', { rate: 1 });
    const slow = take(line);
    await waitFor('packets to wait', async () => (await line.stats()).ab.queued > 10_000);
    await line.set('ab', { rate: 0 });
    // At a megabit it would be eight seconds.
    assert.ok((await slow).took < 7000);
  });

  it('lets nothing pass in a blackout', async () => {
    const line = await begin({ rttMs: 2, rateMbit: 100 });
    await line.set('both', { blackout: 1 });
    const before = (await line.stats()).ab.packets;
    let done = false;
    const taking = take(line).then(() => (done = true));
    const dropped = (await line.stats()).ba.dropped;
    await waitFor('a packet that is dropped', async () => (await line.stats()).ba.dropped > dropped);
    await sleep(300);
    assert.equal(done, false);
    assert.equal((await line.stats()).ab.packets, before);
    await line.set('both', { blackout: 0 });
    await taking;
  });

  it('says what it does not know', async () => {
    const line = await begin({ rttMs: 2, rateMbit: 100 });
    await assert.rejects(line.set('both', { colour: 1 } as never), /unknown command/);
  });
});
