import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startWan, type Wan, type WanOptions } from './wan.ts';

describe('WAN emulator', () => {
  const cleanUp: (() => unknown)[] = [];
  afterEach(async () => {
    for (const step of cleanUp.splice(0).reverse()) await step();
  });

  async function startServer(serve: (socket: Socket) => void, path?: string): Promise<string> {
    const sockets = new Set<Socket>();
    const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      sockets.add(socket);
      socket.on('error', () => undefined);
      serve(socket);
    });
    server.listen(path ?? { host: '127.0.0.1', port: 0 });
    await once(server, 'listening');
    cleanUp.push(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    return path ?? `127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  async function start(options: WanOptions): Promise<Wan> {
    const wan = await startWan(options);
    cleanUp.push(() => wan.stop());
    return wan;
  }

  function dial(wan: Wan): Socket {
    const socket =
      wan.port === 0 ? connect(wan.address) : connect({ host: '127.0.0.1', port: wan.port, noDelay: true });
    cleanUp.push(() => socket.destroy());
    return socket;
  }

  const echo = (socket: Socket): void => void socket.pipe(socket);

  async function pingMs(socket: Socket): Promise<number> {
    const from = performance.now();
    socket.write('x');
    await once(socket, 'data');
    return performance.now() - from;
  }

  /** Sends `length` bytes up and resolves when all have come back: milliseconds. */
  async function bounce(socket: Socket, length: number): Promise<number> {
    const from = performance.now();
    let missing = length;
    socket.write(Buffer.alloc(length));
    while (missing > 0) missing -= ((await once(socket, 'data')) as [Buffer])[0].length;
    return performance.now() - from;
  }

  it('adds the round trip time, to a millisecond', async function () {
    // This machine may be too busy to tell, for a while.
    this.retries(4);
    const wan = await start({ to: await startServer(echo), rttMs: 20, rateMbit: 100 });
    const socket = dial(wan);
    await pingMs(socket);
    const times: number[] = [];
    for (let i = 0; i < 30; i++) times.push(await pingMs(socket));
    times.sort((a, b) => a - b);
    assert.ok(times[0]! >= 19, `not early: ${times[0]} ms`);
    // The fastest half tells the emulator's own error; the rest may be this machine's load.
    assert.ok(times[7]! < 21, `a quarter within 1 ms: ${times.join(' ')}`);
  });

  it('keeps the rate, shared by all connections, within 5 %', async function () {
    this.retries(4);
    let received = 0;
    const to = await startServer((socket) => socket.on('data', (data) => (received += data.length)));
    const wan = await start({ to, rttMs: 4, rateMbit: 80 });
    const senders = [dial(wan), dial(wan), dial(wan)];
    for (const sender of senders) {
      const fill = (): void => {
        while (sender.write(Buffer.alloc(65536)));
      };
      sender.on('drain', fill).on('error', () => undefined);
      fill();
    }
    const until = async (bytes: number): Promise<number> => {
      while (received < bytes) await new Promise((resolve) => setTimeout(resolve, 1));
      return performance.now();
    };
    const first = await until(1e6);
    const at = received;
    const last = await until(11e6);
    const mbit = ((received - at) * 8) / (last - first) / 1000;
    assert.ok(mbit > 76 && mbit < 84, `${mbit} Mbit/s`);
  });

  it('makes a small message wait for what is in the queue before it', async () => {
    const wan = await start({ to: await startServer(echo), rttMs: 10, rateMbit: 40, queueKib: 256 });
    const [bulk, small] = [dial(wan), dial(wan)];
    await Promise.all([pingMs(bulk), pingMs(small)]);
    // 100 KB at 5 bytes a microsecond are 20 ms in the queue up; the way back is free by then.
    const all = bounce(bulk, 100_000);
    await new Promise((resolve) => setTimeout(resolve, 2));
    const ms = await pingMs(small);
    assert.ok(ms > 10 + 12, `${ms} ms`);
    assert.ok((await all) >= 10 + 20);
  });

  it('reads no more than the queue takes: the sender feels backpressure', async () => {
    const to = await startServer((socket) => socket.pause());
    const wan = await start({ to, rttMs: 2, rateMbit: 0 });
    const socket = dial(wan);
    let sent = 0;
    const fill = (): void => {
      while (socket.write(Buffer.alloc(65536), () => (sent += 65536)));
    };
    socket.on('drain', fill);
    fill();
    // A receiver that does not read stops the sender once the buffers between them are full.
    for (let last = -1; last !== sent; ) {
      last = sent;
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    assert.ok(sent < 64 * 1024 * 1024, `${sent} bytes went into a stream that nobody reads`);
  });

  it('carries every byte in order, and the end of one direction before the other', async () => {
    const hash = createHash('sha256');
    const to = await startServer((socket) => {
      socket.on('data', (data) => hash.update(data));
      socket.on('end', () => socket.end(hash.digest('hex')));
    });
    const wan = await start({ to, rttMs: 4, rateMbit: 400 });
    const socket = dial(wan);
    const data = Buffer.alloc(3_000_001);
    for (let i = 0; i < data.length; i++) data[i] = (i * i) >> 7;
    socket.end(data);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.equal(answer.toString(), createHash('sha256').update(data).digest('hex'));
    await once(socket, 'end');
    const stats = await wan.stats();
    assert.equal(stats.upBytes, data.length);
    assert.equal(stats.downBytes, 64);
  });

  it('stalls: nothing passes and nothing is lost, until it resumes', async () => {
    const wan = await start({ to: await startServer(echo), rttMs: 2, rateMbit: 100 });
    const socket = dial(wan);
    await pingMs(socket);
    await wan.stall();
    let back = false;
    const pong = pingMs(socket).then((ms) => {
      back = true;
      return ms;
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(back, false);
    await wan.resume();
    assert.ok((await pong) >= 200);
  });

  it('cuts: connections break, new ones are refused, until it resumes', async () => {
    const wan = await start({ to: await startServer(echo), rttMs: 2, rateMbit: 100 });
    const socket = dial(wan);
    await pingMs(socket);
    const [error] = (await Promise.all([once(socket, 'error'), wan.cut()]))[0] as [NodeJS.ErrnoException];
    assert.equal(error.code, 'ECONNRESET');
    const [refused] = (await once(dial(wan), 'error')) as [NodeJS.ErrnoException];
    assert.equal(refused.code, 'ECONNREFUSED');
    await wan.resume();
    await pingMs(dial(wan));
    assert.equal((await wan.stats()).connections, 1);
  });

  it('relays unix sockets too', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'wan-'));
    cleanUp.push(() => rm(dir, { recursive: true }));
    const to = await startServer(echo, join(dir, 'to.sock'));
    const wan = await start({ to, listen: join(dir, 'wan.sock'), rttMs: 2 });
    await pingMs(dial(wan));
  });

  it('says what is wrong when it cannot listen', async () => {
    const taken = await startServer(echo);
    await assert.rejects(startWan({ to: taken, listen: taken }), /ended/);
  });
});
