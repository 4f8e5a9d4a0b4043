import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportUri } from '../../src/daemon/disks/peers.ts';
import { TestCa } from '../lab/host/certificates.ts';
import { MIB, type TestHost } from '../lab/host/test-host.ts';
import { TwoHosts } from '../lab/host/two-hosts.ts';
import { installed } from '../lab/installed.ts';
import { freePort } from '../lab/net/free-port.ts';
import { type RecordingRelay, startRecordingRelay } from '../lab/net/recording-relay.ts';
import { waitFor } from '../lab/wait-for.ts';

const gatewayProgram = join(import.meta.dirname, '../../src/bin/xnbd-gateway.ts');

describe('two hosts that require TLS', function () {
  this.timeout(90_000);
  let two: TwoHosts;
  let ca: TestCa;
  let gateway: ChildProcess;
  let wire: RecordingRelay;

  before(function () {
    if (!installed('openssl')) this.skip();
  });
  beforeEach(async () => {
    two = await TwoHosts.make();
    ca = await TestCa.make(join(two.a.dir, 'ca'));
    const port = await freePort();
    wire = await startRecordingRelay(port);
    await ca.issue(join(two.a.dir, 'pki'), 'a.example');
    await ca.issue(join(two.b.dir, 'pki'), 'b.example');
    await configure(two.a, `listen = 127.0.0.1:${port}`, 'allow = b.example', '');
    await configure(two.b, 'advertise = b.example:10809', 'allow = a.example', '');
    gateway = spawn(process.execPath, [gatewayProgram, '--config', join(two.a.dir, 'xnbd.conf')], {
      stdio: ['ignore', 'ignore', 'ignore'],
    });
    await reachable(port);
  });
  afterEach(async () => {
    if (gateway.exitCode === null && gateway.signalCode === null) {
      gateway.kill('SIGKILL');
      await once(gateway, 'exit');
    }
    wire.close();
    await two.remove();
  });

  /** The host's daemon starts again with these lines. */
  async function configure(host: TestHost, atGateway: string, tls: string, peers: string): Promise<void> {
    const { dir } = host;
    await host.stop();
    await writeFile(
      join(dir, 'xnbd.conf'),
      `[paths]\nimages = ${dir}/images\nexports = ${dir}/exports\nrun = ${host.run}\n[gateway]\n${atGateway}\n` +
        `[tls]\nca = ${dir}/pki/ca-cert.pem\ncert = ${dir}/pki/server-cert.pem\nkey = ${dir}/pki/server-key.pem\n${tls}\n` +
        `[libvirt]\ndbus = unix:path=${dir}/no-libvirt\n[peers]\n${peers}\n`,
    );
    await host.startDaemon();
  }

  const origin = (scheme: string) => (name: string) => `${scheme}://127.0.0.1:${wire.port}/${name}`;

  it('a domain moves, its disks follow, and nothing of them can be read on the way', async () => {
    const { a, b, vm } = two;
    const domain = await two.travelling(a, origin('nbds'));
    for (const op of ['migrate', 'prepare', 'start', 'started']) await b.succeeds(op, domain);
    assert.deepEqual(await two.states(a), ['lent', 'lent']);
    await two.leave();
    await two.become(b, 'serving');
    for (const name of vm.disks) {
      const [there, here] = await Promise.all(
        [a, b].map((host) => readFile(join(host.dir, 'images', `${name}.img`))),
      );
      assert.ok(there!.equals(here!));
    }
    assert.ok(wire.fromServer().length > vm.disks.length * MIB);
    for (const seen of [wire.fromServer(), wire.fromClient()]) assert.ok(!seen.includes('vm1-vd'));
  });

  it('the daemon asks its peers by TLS, and restarts an export with the certificates', async () => {
    const { a, b, vm } = two;
    await configure(b, 'advertise = b.example:10809', 'allow = a.example', `a = 127.0.0.1:${wire.port}`);
    for (const op of ['migrate', 'prepare', 'start', 'started']) await b.succeeds(op, vm);
    const { origin: uri, pid } = await b.status('vm1-vda');
    assert.equal(uri, `nbds://127.0.0.1:${wire.port}/vm1-vda`);
    process.kill(pid, 'SIGKILL');
    await waitFor('the export is back, and has its lease', async () => {
      const back = await b.status('vm1-vda').catch(() => undefined);
      return back !== undefined && back.pid !== pid && (await a.state('vm1-vda')) === 'lent';
    });
    await two.leave();
    await two.become(b, 'serving');
    const images = [a, b].map((host) => readFile(join(host.dir, 'images', 'vm1-vda.img')));
    const [there, here] = await Promise.all(images);
    assert.ok(there!.equals(here!));
  });

  it('an origin in the clear is refused, and an origin of another certificate', async () => {
    const { a, b } = two;
    const plain = await b.hook('migrate', await two.travelling(a, origin('nbd')));
    assert.equal(plain.exit, 1);
    assert.match(plain.stderr, /nbd:\/\/127\S+, in the clear, and this host requires TLS/);
    assert.deepEqual(wire.fromClient().length, 0);
    await ca.issue(join(b.dir, 'pki'), 'stranger.example');
    const stranger = await b.hook('migrate', await two.travelling(a, origin('nbds')));
    assert.equal(stranger.exit, 1);
    assert.match(stranger.stderr, /is this host's certificate, .*, in allow under \[tls\] at the server/);
    assert.deepEqual(await b.left(), []);
    assert.deepEqual(await two.states(a), ['serving', 'serving']);
    await ca.issue(join(b.dir, 'pki'), 'b.example');
    await b.succeeds('migrate', await two.travelling(a, origin('nbds')));
  });

  it('the daemon names its own gateway as it is', () => {
    const at = { host: '2001:db8::1', port: 10809 };
    assert.equal(exportUri(at, 'd', 'required'), 'nbds://[2001:db8::1]:10809/d');
    assert.equal(exportUri(at, 'd', 'off'), 'nbd://[2001:db8::1]:10809/d');
  });
});

async function reachable(port: number): Promise<void> {
  for (let tries = 0; ; tries++) {
    const socket = connect(port, '127.0.0.1');
    const reached = await new Promise((resolve) => {
      socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
    });
    socket.destroy();
    if (reached === true) return;
    assert.ok(tries < 1000, 'the gateway does not listen');
    await sleep(20);
  }
}
