/**
 * A proxy against a model, under whatever fast-check thinks of: overlapping reads, writes, trims and zeroes
 * at once, late and shuffled answers of the origin, a takeover at any moment, stops, and kill -9.
 * XNBD_PROPERTY_RUNS multiplies the runs.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { OriginConnection } from '../../../src/client/connection.ts';
import { Command, CommandFlag, Errno } from '../../../src/nbd/constants.ts';
import { parseNbdUri } from '../../../src/nbd/uri.ts';
import { openServedProxy, type ServedProxy } from '../../../src/relocation/served-proxy.ts';
import { type Action, type Scenario, scenarios } from '../../lab/model/actions.ts';
import { ByteModel } from '../../lab/model/byte-model.ts';
import { bytesOf, diskContent } from '../../lab/model/content.ts';
import { Random } from '../../lab/model/random.ts';
import { assertSameBytes } from '../../lab/model/same-bytes.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { type SlowOrigin, startSlowOrigin } from '../../lab/nbd/slow-origin.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const RUNS = Number(process.env['XNBD_PROPERTY_RUNS'] ?? 1);

/** A proxy that can be driven, stopped and started again. */
interface Driven {
  read(into: Buffer, from: number, done: Answer): void;
  change(action: Extract<Action, { fua: boolean }>, data: Buffer, done: Answer): void;
  flush(done: Answer): void;
  takeover(): Promise<unknown>;
  /** @param settled resolves when everything that was asked for has been answered */
  restart(settled: () => Promise<void>): Promise<void>;
  /** Resolves once the proxy is a target and its origin let go. */
  completed(): Promise<void>;
  stop(): Promise<void>;
}

type Answer = (errno: number) => void;

describe('a proxy does what a disk does', function () {
  this.timeout(180_000 * RUNS);

  it('in this process, stopped and started again', async () => {
    await check(80 * RUNS, 80, driveInProcess);
  });

  it('as a process of its own, ended by kill -9', async () => {
    await check(12 * RUNS, 60, driveProcess);
  });
});

async function check(
  numRuns: number,
  mostActions: number,
  drive: (directory: string, origin: SlowOrigin, model: ByteModel) => Promise<Driven>,
): Promise<void> {
  const property = fc.asyncProperty(scenarios(mostActions), async (scenario) => {
    const directory = await temporaryDirectory();
    try {
      await play(scenario, directory.path, drive);
    } finally {
      await directory.remove();
    }
  });
  // Time is part of the game, so a failure need not come again: shrinking would chase its tail.
  await fc.assert(property, { numRuns, endOnFailure: true });
}

async function play(
  scenario: Scenario,
  directory: string,
  drive: (directory: string, origin: SlowOrigin, model: ByteModel) => Promise<Driven>,
): Promise<void> {
  const size = scenario.blocks * 4096 + scenario.tail;
  const random = new Random(scenario.seed);
  const slowness = random.below(12);
  const content = diskContent(scenario.seed, size);
  const model = new ByteModel(Buffer.from(content));
  const origin = await startSlowOrigin({
    directory,
    content,
    delay: () => random.below(slowness),
    tellsHoles: random.fraction() < 0.7,
  });
  let source: OriginConnection | null = await OriginConnection.connect({ address: parseNbdUri(origin.uri) });
  let proxy: Driven | null = null;
  const failures: unknown[] = [];
  let unanswered = 0;
  let onSettled: (() => void) | null = null;
  const settled = () =>
    new Promise<void>((resolve) => {
      if (unanswered === 0) resolve();
      else onSettled = resolve;
    });
  const answer =
    (take: (errno: number) => void): Answer =>
    (errno) => {
      try {
        take(errno);
      } catch (error) {
        failures.push(error);
      }
      if (--unanswered === 0) onSettled?.();
    };

  const read = (from: number, length: number) => {
    const into = Buffer.alloc(length, 0xee);
    const reading = model.read(from, length);
    unanswered++;
    const done = answer((errno) => {
      reading.done(errno === 0 ? into : null);
      assert.ok(errno === 0 || errno === LOST, `a read failed with ${errno}`);
    });
    proxy!.read(into, from, done);
  };

  try {
    proxy = await drive(directory, origin, model);
    for (const action of scenario.actions) {
      if (failures.length > 0) break;
      switch (action.kind) {
        case 'read':
          read(action.from, action.length);
          break;
        case 'write':
        case 'trim':
        case 'zero': {
          const data =
            action.kind === 'write' ? bytesOf(action.seed, action.length) : Buffer.alloc(action.length);
          const changing = model.change(action.kind, action.from, data);
          unanswered++;
          const done = answer((errno) => {
            changing.done(errno === 0 ? 'certain' : 'possible');
            assert.ok(errno === 0 || errno === LOST, `a ${action.kind} failed with ${errno}`);
          });
          proxy.change(action, data, done);
          break;
        }
        case 'sourceWrite': {
          if (source === null) break;
          const data = bytesOf(action.seed, action.length);
          const changing = model.change('source', action.from, data);
          unanswered++;
          const done = answer((errno) => {
            changing.done(errno === 0 ? 'certain' : 'refused');
            assert.ok(errno === 0 || errno === Errno.EPERM || errno === Errno.ESHUTDOWN, `source: ${errno}`);
          });
          source.write(data, action.from, 0, { complete: done });
          break;
        }
        case 'flush':
          unanswered++;
          proxy.flush(answer((errno) => assert.ok(errno === 0 || errno === LOST, `flush: ${errno}`)));
          break;
        case 'takeover':
          // A stop may come in between.
          void proxy.takeover().catch(() => undefined);
          break;
        case 'sourceLeaves':
          await settled();
          source?.disconnect();
          source = null;
          break;
        case 'hold':
          origin.disk.hold();
          await pause(action.ms);
          origin.disk.release(random.shuffle);
          break;
        case 'pause':
          await pause(action.ms);
          break;
        case 'settle':
          await settled();
          break;
        case 'restart':
          await proxy.restart(settled);
          break;
        case 'originRestart':
          await settled();
          source?.disconnect();
          source = null;
          await origin.restart();
          break;
      }
    }
    await settled();
    if (failures.length > 0) throw failures[0];
    await proxy.takeover();
    const atTheFence = Buffer.from(content);
    await proxy.completed();
    const image = await readFile(join(directory, 'b.img'));
    for (let pass = 0; pass < 2; pass++) {
      model.read(0, size).done(image);
      read(0, size);
      await settled();
    }
    if (failures.length > 0) throw failures[0];
    assertSameBytes(content, atTheFence, "the origin's image was changed");
    assert.equal(origin.keeper.record.state, 'retired');
  } finally {
    origin.disk.release();
    source?.destroy();
    await proxy?.stop();
    await origin.stop();
  }
}

/** What the driver answers for a request that died with the process. */
const LOST = -1;

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => (ms === 0 ? setImmediate(resolve) : setTimeout(resolve, ms)));
}

async function driveInProcess(directory: string, origin: SlowOrigin): Promise<Driven> {
  const options = {
    name: 'disk',
    image: join(directory, 'b.img'),
    origin: origin.uri,
    stateDir: join(directory, 'b.state'),
  };
  let proxy: ServedProxy = await openServedProxy(options);
  return {
    read: (into, from, done) => proxy.disk.read(into, from, { complete: done }),
    change: (action, data, done) => {
      const { from, length, fua } = action;
      const completion = { complete: done };
      if (action.kind === 'write') {
        // The disk may use the data during the call only.
        const lent = Buffer.from(data);
        proxy.disk.write(lent, from, fua, completion);
        lent.fill(0xdd);
      } else if (action.kind === 'trim') proxy.disk.trim(from, length, fua, completion);
      else proxy.disk.zero(from, length, { fua, noHole: action.seed % 2 === 0, fast: false }, completion);
    },
    flush: (done) => proxy.disk.flush({ complete: done }),
    takeover: () => proxy.takeover(),
    restart: async (settled) => {
      origin.disk.release();
      await settled();
      await proxy.close();
      proxy = await openServedProxy(options);
    },
    completed: async () => {
      const { record } = proxy.keeper;
      const deadline = performance.now() + 60_000;
      while (record.origin !== null || proxy.relocation.disk.phase !== 'complete') {
        assert.ok(
          performance.now() < deadline,
          `not complete: ${JSON.stringify({ ...record, ...proxy.describe() })}`,
        );
        await pause(5);
      }
    },
    stop: () => proxy.close(),
  };
}

async function driveProcess(directory: string, origin: SlowOrigin, model: ByteModel): Promise<Driven> {
  const socket = join(directory, 'b');
  const args = ['--image', join(directory, 'b.img'), '--origin', origin.uri];
  let running: ExportProcess = await startExport('proxy', 'disk', socket, args);
  let closed: Promise<unknown>;
  const connectAgain = async () => {
    const made = await OriginConnection.connect({ address: parseNbdUri(running.uri) });
    closed = new Promise((resolve) => {
      made.onClosed = resolve;
    });
    return made;
  };
  let connection = await connectAgain();
  /** What has not been answered; lost with the process. */
  const waiting = new Set<Answer>();
  const remember = (done: Answer) => {
    waiting.add(done);
    return {
      complete: (errno: number) => {
        if (waiting.delete(done)) done(errno);
      },
    };
  };
  return {
    read: (into, from, done) => connection.read(into, from, remember(done)),
    change: (action, data, done) => {
      const { from, length } = action;
      const flags = action.fua ? CommandFlag.FUA : 0;
      if (action.kind === 'write') connection.write(data, from, flags, remember(done));
      else if (action.kind === 'trim') connection.command(Command.TRIM, from, length, flags, remember(done));
      else {
        const noHole = action.seed % 2 === 0 ? CommandFlag.NO_HOLE : 0;
        connection.command(Command.WRITE_ZEROES, from, length, flags | noHole, remember(done));
      }
    },
    flush: (done) => connection.command(Command.FLUSH, 0, 0, 0, remember(done)),
    takeover: () => running.call('takeover'),
    restart: async () => {
      await running.end('SIGKILL');
      // What it answered before its end is still to be read.
      await closed;
      model.killed();
      for (const done of [...waiting]) {
        waiting.delete(done);
        done(LOST);
      }
      connection.destroy();
      running = await startExport('proxy', 'disk', socket, args);
      connection = await connectAgain();
    },
    completed: async () => {
      await running.until((status) => status.state === 'serving' && status.origin === null, 60_000);
    },
    stop: async () => {
      connection.destroy();
      await running.end('SIGKILL');
    },
  };
}
