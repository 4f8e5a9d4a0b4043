/**
 * The origin's host is just starting when the disk is complete: it is told to retire once it serves the disk
 * again.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startGateway } from '../../../src/gateway/gateway.ts';
import { listenPlain } from '../../../src/gateway/transport.ts';
import { deleteLeftovers } from '../../../src/store/records/delete-disk.ts';
import { readRecord } from '../../../src/store/records/record.ts';
import { connectClient } from '../../lab/nbd/client.ts';
import { startExport } from '../../lab/nbd/export-process.ts';
import { startWan } from '../../lab/net/wan.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const SIZE = 2 * 1024 * 1024;

describe('an origin that is not served while the disk becomes complete', function () {
  this.timeout(60_000);

  for (const [what, deleted] of [
    ['is told to retire when it is served again', false],
    ['is let go at once when it has retired meanwhile, and been deleted', true],
  ] as const)
    it(what, async () => {
      const directory = await temporaryDirectory();
      const image = join(directory.path, 'a.img');
      const exports = join(directory.path, 'exports');
      const stateDir = join(exports, 'disk');
      await writeFile(image, randomBytes(SIZE));
      const startOrigin = () =>
        startExport('target', 'disk', join(directory.path, 'disk.sock'), [
          '--image',
          image,
          '--state',
          stateDir,
        ]);
      let origin = await startOrigin();
      const listen: Parameters<typeof startGateway>[0]['listen'] = (visit) =>
        listenPlain({ host: '127.0.0.1', port: 0 }, visit);
      const gateway = await startGateway({
        tls: null,
        run: directory.path,
        records: exports,
        listen,
      });
      // The copy takes longer than the test.
      const wan = await startWan({ to: `127.0.0.1:${gateway.address.port}`, rttMs: 1, rateMbit: 0.5 });
      const args = ['--image', join(directory.path, 'b.img'), '--origin', `nbd://${wan.address}/disk`];
      const proxy = await startExport('proxy', 'disk', join(directory.path, 'b'), args);
      try {
        await proxy.call('takeover');
        await origin.end('SIGKILL');
        await proxy.until((status) => !status.originReachable);
        const guest = await connectClient(proxy.uri);
        await guest.write(0, randomBytes(SIZE));
        guest.disconnect();
        await proxy.until((status) => status.state === 'serving');
        await sleep(1500);
        assert.notEqual((await proxy.status()).origin, null, 'the origin has not been told');
        if (deleted) {
          const record = { ...(await readRecord(stateDir))!, state: 'retired' as const };
          const { path: images } = directory;
          await deleteLeftovers({ exports, images, run: images }, 'disk', record);
          await proxy.until((status) => status.origin === null);
          return;
        }
        origin = await startOrigin();
        await proxy.until((status) => status.origin === null);
        assert.equal((await origin.status()).state, 'retired');
      } finally {
        await proxy.end();
        await wan.stop();
        await gateway.close(0);
        await origin.end();
        await directory.remove();
      }
    });
});
