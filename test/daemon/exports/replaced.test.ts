/** The process of an export is replaced while the daemon watches: for the daemon, nothing ends. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { TestDomain } from '../../lab/host/test-domain.ts';
import { TestHost } from '../../lab/host/test-host.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { waitFor } from '../../lab/wait-for.ts';

const XNBDCTL = join(import.meta.dirname, '../../../src/bin/xnbdctl.ts');

describe('an export whose process is replaced, for the daemon', function () {
  this.timeout(60_000);
  let host: TestHost;
  let vm: TestDomain;

  beforeEach(async () => {
    vm = { name: 'vm1', uuid: randomUUID(), disks: ['vm1-vda'] };
    host = await TestHost.make();
    await host.addDisk('vm1-vda');
    await host.startDaemon();
    await host.succeeds('prepare', vm);
  });
  afterEach(() => host.remove());

  const xnbdctl = async (...args: string[]): Promise<string> =>
    (await promisify(execFile)(process.execPath, [XNBDCTL, '--config', join(host.dir, 'xnbd.conf'), ...args]))
      .stdout;

  it('is the same export with another process; it neither ended nor died, and is stopped as ever', async () => {
    const guest = await connectClient(host.localUri('vm1-vda'));
    const data = Buffer.alloc(65536, 'x');
    await guest.write(0, data);
    const { pid: first } = await host.status('vm1-vda');
    for (let times = 0; times < 3; times++) {
      const { pid } = await host.status('vm1-vda');
      assert.match(
        await xnbdctl('restart', 'vm1-vda'),
        new RegExp(
          `^vm1-vda: process ${pid} is replaced by \\d+, release \\S+; 1 clients stay connected\\n$`,
        ),
      );
      await waitFor('the daemon to know', async () =>
        (await host.log()).includes(`export vm1-vda: process ${pid} (release `),
      );
      assert.deepEqual(await guest.read(0, data.length), data);
    }
    const { pid: last, clients, socket } = await host.status('vm1-vda');
    assert.notEqual(last, first);
    assert.equal(clients, 1);
    assert.match(await host.log(), new RegExp(`is replaced by ${last} \\(release`));
    assert.doesNotMatch(await host.log(), /vm1-vda.*(is gone|could not be followed)/);
    guest.disconnect();
    await host.succeeds('stopped', vm);
    await host.succeeds('release', vm);
    await waitFor('the export has ended', async () => (await host.state('vm1-vda')) === undefined);
    assert.ok(!existsSync(socket), 'the socket is left over');
  });

  it('is started again when the new process is killed', async () => {
    await xnbdctl('restart', '--all');
    const { pid } = await host.status('vm1-vda');
    process.kill(pid, 'SIGKILL');
    await waitFor('another process', async () => {
      const status = await host.status('vm1-vda').catch(() => undefined);
      return status !== undefined && status.pid !== pid;
    });
    assert.match(await host.log(), new RegExp(`export vm1-vda \\(pid ${pid}\\) is gone`));
  });
});
