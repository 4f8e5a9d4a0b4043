/** A hand-over that cannot be made: until the last moment the old process goes on, and afterwards it is as if killed. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportStatus, restartExport } from '../../../src/control/client.ts';
import {
  decodeState,
  encodeState,
  type HandOverState,
  Stretches,
} from '../../../src/export/hand-over/state.ts';
import { Command } from '../../../src/nbd/constants.ts';
import { RawClient } from '../../lab/nbd/raw-client.ts';
import { processesOf, type Running, signalTo, start } from '../../lab/processes.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';
import { waitFor } from '../../lab/wait-for.ts';

const MIB = 1024 * 1024;
const PROGRAM = join(import.meta.dirname, '../../../src/bin/xnbd-export.ts');
const REAL = `await (await import(${JSON.stringify(PROGRAM)})).program.parseAsync();`;
const HELLO = (takes: number[]) =>
  `(await import('node:fs')).writeSync(3, ${JSON.stringify(`${JSON.stringify({ release: '9.9.9', takes })}\n`)});`;
const HANG = 'setInterval(() => undefined, 1000);';

describe('a hand-over that fails', function () {
  this.timeout(60_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  const started: Running[] = [];
  let client: RawClient;
  let socket: string;
  const data = randomBytes(MIB);

  /** The program on disk, as an upgrade would replace it. */
  const install = (code: string) => writeFile(join(directory.path, 'xnbd-export.mjs'), code);
  const run = async () => {
    const args = ['target', 'disk', '--image', join(directory.path, 'a.img'), '--socket', socket];
    const program = [process.execPath, join(directory.path, 'xnbd-export.mjs')];
    const running = await start([...program, ...args], { log: join(directory.path, 'log') });
    started.push(running);
    await waitFor('the export', () => running.said().includes('ready disk'), 20_000);
    return running;
  };
  const restart = () => restartExport(`${socket}.ctl`);
  const others = async (pid: number) =>
    [...(await processesOf(directory.path)).keys()].filter((each) => each !== pid);

  beforeEach(async () => {
    directory = await temporaryDirectory();
    socket = join(directory.path, 's');
    await writeFile(join(directory.path, 'a.img'), '');
    await truncate(join(directory.path, 'a.img'), 16 * MIB);
    await install(REAL);
    await run();
    client = await RawClient.open(socket, 'disk');
    assert.equal(await client.write(0, data), 0);
  });
  afterEach(async () => {
    client.break();
    for (const each of started.splice(0)) await each.end('SIGKILL');
    for (const pid of (await processesOf(directory.path)).keys()) signalTo(pid, 'SIGKILL');
    await directory.remove();
  });

  const goesOn = async () => {
    assert.ok(started[0]!.runs);
    assert.equal((await exportStatus(`${socket}.ctl`)).pid, started[0]!.pid);
    assert.deepEqual((await client.read(0, MIB)).data, data);
    assert.equal(await client.write(MIB, data), 0);
    await waitFor('no other process', async () => (await others(started[0]!.pid)).length === 0, 5000);
  };

  it('because the new program does not start: the old process goes on, and is replaced when it does', async () => {
    await install("throw new Error('this release is broken')");
    await assert.rejects(restart(), /the new process ended with exit code 1 before it took over/);
    await goesOn();
    await install(REAL);
    const after = await restart();
    assert.notEqual(after.pid, started[0]!.pid);
    assert.deepEqual((await client.read(MIB, MIB)).data, data);
  });

  it('because the new program knows no hand-over: it finds the disk in use', async () => {
    await install(`delete process.env.XNBD_TAKE_OVER; ${REAL}`);
    await assert.rejects(restart(), /the new process ended with exit code 1/);
    assert.match(started[0]!.said(), /process \d+\) serves it|is in use by another xnbd-export/);
    await goesOn();
  });

  it('because the new program takes another version: both are named', async () => {
    await install(`${HELLO([98, 99])} ${HANG}`);
    await assert.rejects(
      restart(),
      /the new process \(release 9\.9\.9\) takes over in version 98, 99, and this one hands over in 1/,
    );
    await goesOn();
  });

  it('because the new process is killed before it is ready', async () => {
    await install(HANG);
    const refused = assert.rejects(restart(), /the new process ended with SIGKILL/);
    await waitFor('the new process', async () => (await others(started[0]!.pid)).length > 0, 5000);
    for (const pid of await others(started[0]!.pid)) signalTo(pid, 'SIGKILL');
    await refused;
    await goesOn();
  });

  it('because one is under way already; that one is made', async () => {
    const first = restart();
    await sleep(5);
    const second = restart();
    const outcomes = await Promise.allSettled([first, second]);
    const refusals = outcomes.flatMap((each) => (each.status === 'rejected' ? [String(each.reason)] : []));
    assert.ok(refusals.length <= 1, refusals.join());
    for (const refusal of refusals) assert.match(refusal, /is being restarted already|is gone/);
    assert.deepEqual((await client.read(0, MIB)).data, data);
  });

  it('because the old process is killed while the new one waits: that ends, and the disk is free', async () => {
    await install(`await new Promise((resolve) => setTimeout(resolve, 1000)); ${REAL}`);
    const gone = assert.rejects(restart());
    await waitFor('the new process', async () => (await others(started[0]!.pid)).length > 0, 5000);
    signalTo(started[0]!.pid, 'SIGKILL');
    await gone;
    await client.closed();
    await waitFor('its end', async () => (await processesOf(directory.path)).size === 0, 10_000);
    await install(REAL);
    await run();
    client = await RawClient.open(socket, 'disk');
    assert.deepEqual((await client.read(0, MIB)).data, data);
  });

  it('after all has been given to it: clients meet what they meet after kill -9', async () => {
    await install(`${HELLO([1])} ${HANG}`);
    const waiting = restart().catch(() => undefined);
    await started[0]!.ended;
    for (const pid of await others(started[0]!.pid)) signalTo(pid, 'SIGKILL');
    await client.closed();
    await waiting;
    await install(REAL);
    await run();
    client = await RawClient.open(socket, 'disk');
    assert.deepEqual((await client.read(0, MIB)).data, data);
    assert.equal(await client.command(Command.FLUSH), 0);
  });
});

describe('the state that is handed over', () => {
  const state: HandOverState = {
    version: 1,
    release: '0.1.0',
    pid: 7,
    heldAt: '0',
    name: 'disk',
    listeners: { nbd: '1', ctl: '2', tcp: null },
    writtenBytes: 0,
    lending: {
      state: 'serving',
      lease: null,
      voided: null,
      watch: { gone: false, broken: false },
      guardOpen: false,
    },
    sessions: [],
    disk: null,
  };

  it('comes back as it was, with the bytes behind it', () => {
    const stretches = new Stretches();
    const stretch = stretches.add(Buffer.from('a\nb'));
    const content = Buffer.concat(encodeState(state, stretches));
    const { state: found, bytes } = decodeState(content);
    assert.deepEqual(found, state);
    assert.equal(bytes.toString('utf8', stretch.at, stretch.at + stretch.length), 'a\nb');
  });

  it('is refused in words when it is of another version', () => {
    for (const version of [0, 2]) {
      const content = Buffer.concat(encodeState({ ...state, version }, new Stretches()));
      assert.throws(
        () => decodeState(content),
        new RegExp(`process 7 \\(release 0.1.0\\) hands over in version ${version}; this release knows 1`),
      );
    }
  });
});
