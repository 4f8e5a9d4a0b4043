/**
 * Exports outlive the daemon's upgrade: today's daemon and xnbdctl meet exports of another release, whose
 * status lacks properties, has others, and has one of another type.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Variant } from 'dbus-next';
import { type Bus, openBus } from '../../src/system/bus.ts';
import { startPrivateBus } from '../lab/host/private-bus.ts';
import type { TestHost } from '../lab/host/test-host.ts';
import { TwoHosts } from '../lab/host/two-hosts.ts';
import { waitFor } from '../lab/wait-for.ts';

const xnbdctl = join(import.meta.dirname, '../../src/bin/xnbdctl.ts');
const exportProgram = join(import.meta.dirname, '../lab/host/another-releases-xnbd-export.ts');

describe('exports of another release', function () {
  this.timeout(120_000);
  let two: TwoHosts;
  let client: Bus;
  const ends: (() => Promise<void> | void)[] = [];

  beforeEach(async function () {
    const started = await startPrivateBus();
    if (started === undefined) {
      console.log('      skipped: dbus-daemon is not installed (Debian package dbus)');
      this.skip();
    }
    ends.push(started.stop);
    client = await openBus(started.address, () => undefined);
    ends.push(() => client.close());
    two = await TwoHosts.make({ exportProgram, busAddress: started.address });
    ends.push(() => two.remove());
  });

  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });

  const said = async (host: TestHost, ...args: string[]): Promise<string> =>
    (await promisify(execFile)(process.execPath, [xnbdctl, '--config', join(host.dir, 'xnbd.conf'), ...args]))
      .stdout;

  async function onTheBus(name: string): Promise<Record<string, unknown>> {
    const [all] = (await client.call({
      destination: 'org.xnbd1',
      path: `/org/xnbd1/export/${name.replace('-', '_2d')}`,
      interface: 'org.freedesktop.DBus.Properties',
      member: 'GetAll',
      signature: 's',
      body: ['org.xnbd1.Export'],
    })) as [Record<string, Variant>];
    return Object.fromEntries(Object.entries(all).map(([key, { value }]) => [key, value as unknown]));
  }

  it('are watched over one link, their guest moves, and D-Bus and xnbdctl show them', async () => {
    const { a, b } = two;
    await two.arrive();
    await two.become(b, 'standby');
    await two.leave();
    await two.become(b, 'serving');

    const shown = await onTheBus('vm1-vda');
    assert.deepEqual(
      [shown.State, shown.SizeBytes, shown.BadBytes, shown.Error, shown.OriginTimeoutSeconds],
      ['serving', 8n * 1024n * 1024n, 0n, '', -1n],
    );
    assert.match(await said(b, 'list'), /^vm1-vda +serving +8\.0 MiB +100 %$/m);
    assert.match(await said(b, 'status'), /^vm1-vda +serving +8\.0 MiB +100 % +0 B /m);
    assert.match(await said(b, 'status', 'vm1-vda'), /^state +serving, pid \d+$/m);
    const [json] = JSON.parse(await said(b, 'status', 'vm1-vda', '--json')) as Record<string, unknown>[];
    assert.deepEqual(
      [json!.badBytes, json!.clients, json!.verification, json!.heads],
      [0, 0, null, undefined],
    );
    assert.match(await said(b, 'watch', 'vm1-vda'), /^vm1-vda +serving +100 %/);

    for (const host of [a, b]) {
      const log = await host.log();
      assert.doesNotMatch(log, /is gone|verification failed|error/i);
      for (const name of two.vm.disks)
        assert.equal(log.split(`export ${name} is up`).length - 1, 1, `more than one link\n${log}`);
    }
  });

  it('found by a daemon that starts again are taken up once, and go on serving', async () => {
    const { b } = two;
    await two.arrive();
    await two.leave();
    await two.become(b, 'serving');
    const { pid } = await b.status('vm1-vda');
    await b.stop('SIGKILL');
    await b.startDaemon();
    const ups = async (name: string): Promise<number> =>
      (await b.log()).split(`export ${name} is up`).length - 1;
    for (const name of two.vm.disks) await waitFor(`${name} is up`, async () => (await ups(name)) >= 2);
    await sleep(1000);
    for (const name of two.vm.disks) assert.equal(await ups(name), 2, 'once by each daemon');
    assert.equal((await b.status('vm1-vda')).pid, pid);
    for (const op of ['stopped', 'release', 'prepare', 'start', 'started']) await b.succeeds(op, two.vm);
    assert.equal((await onTheBus('vm1-vda')).State, 'serving');
  });

  it('are watched by xnbdctl until its user has seen enough', async () => {
    const watch = spawn(process.execPath, [xnbdctl, '--config', join(two.a.dir, 'xnbd.conf'), 'watch'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const said: string[] = [];
    for (const stream of [watch.stdout, watch.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => said.push(text));
    const exit = once(watch, 'exit');
    await sleep(2500);
    watch.kill('SIGINT');
    await exit;
    assert.match(said.join(''), /^vm1-vda +serving +100 % .*\nvm1-vdb +serving +100 % .*\n$/);
  });
});
