import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Gateway, startGateway } from '../../../src/gateway/gateway.ts';
import { listenPlain } from '../../../src/gateway/transport.ts';
import { writeLine } from '../../../src/log/line.ts';
import { configureLog } from '../../../src/log/log.ts';
import { TwoHosts } from '../../lab/host/two-hosts.ts';

describe('a domain that does not tell where its disks are', function () {
  this.timeout(60_000);
  let two: TwoHosts;
  let gateway: Gateway;

  beforeEach(async () => {
    two = await TwoHosts.make();
    gateway = await startGateway({
      run: two.a.run,
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
  });
  before(() => configureLog({ sink: () => undefined }));
  after(() => configureLog({ sink: writeLine }));
  afterEach(async () => {
    await gateway.close(1000);
    await two.remove();
  });

  /** B is told of two peers, of which the first does not answer. */
  async function configure(advertise: number): Promise<void> {
    const { b } = two;
    await b.stop();
    await writeFile(
      join(b.dir, 'xnbd.conf'),
      `[paths]\nimages = ${b.dir}/images\nexports = ${b.dir}/exports\nrun = ${b.run}\n` +
        `[gateway]\nadvertise = 127.0.0.1:${advertise}\ntls = off\n[libvirt]\ndbus = unix:path=${b.dir}/no-libvirt\n` +
        `[peers]\nnobody = 127.0.0.1:1\na = 127.0.0.1:${gateway.address.port}\n`,
    );
    await b.startDaemon();
  }

  it('is found at the gateway of the peer that serves them', async () => {
    await configure(10809);
    await two.b.succeeds('migrate', two.vm);
    const { state, origin } = await two.b.status('vm1-vda');
    assert.equal(state, 'standby');
    assert.equal(origin, `nbd://127.0.0.1:${gateway.address.port}/vm1-vda`);
    assert.deepEqual(await two.states(two.a), ['lent', 'lent']);
  });

  it('no peer serves them: refused, with the peers that were asked', async () => {
    await configure(10809);
    const refused = await two.b.hook('migrate', { ...two.vm, disks: ['vm9-vda'] });
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /disk vm9-vda of vm1 .*nobody, a/);
  });

  it('the peer is this host itself: refused, with what to configure', async () => {
    await configure(gateway.address.port);
    const refused = await two.b.hook('migrate', two.vm);
    assert.equal(refused.exit, 1);
    assert.match(refused.stderr, /this host itself.*advertise/);
  });
});
