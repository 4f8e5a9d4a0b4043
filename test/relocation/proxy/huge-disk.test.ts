/** Disks whose size breaks arithmetic, or patience. */
import assert from 'node:assert/strict';
import { access, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startExport } from '../../lab/nbd/export-process.ts';
import { startWan } from '../../lab/net/wan.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const TIB = 2 ** 40;

describe('a huge disk', function () {
  this.timeout(60_000);

  async function withOrigin(
    sizeBytes: number,
    path: string,
    use: (socket: string) => Promise<void>,
  ): Promise<void> {
    const image = join(path, 'a.img');
    await writeFile(image, '');
    await truncate(image, sizeBytes);
    const socket = join(path, 'a');
    const origin = await startExport('target', 'disk', socket, ['--image', image]);
    try {
      await use(socket);
    } finally {
      await origin.end();
    }
  }

  it('of more blocks than the present map can tell apart is refused, and leaves nothing', async function () {
    // ext4 holds no such file, a file system in memory does.
    const path = await mkdtemp('/dev/shm/xnbd-').catch(() => undefined);
    if (path === undefined) {
      console.log('      skipped: there is no /dev/shm');
      this.skip();
    }
    try {
      await withOrigin(16 * TIB + 4096, path, async (socket) => {
        const args = ['--image', join(path, 'b.img'), '--origin', `nbd+unix:///disk?socket=${socket}`];
        await assert.rejects(
          startExport('proxy', 'disk', join(path, 'b'), args).then((proxy) => proxy.end()),
          /more than 17592186044416 \(16 TiB\)/,
        );
        await assert.rejects(access(join(path, 'b.img')), /ENOENT/);
      });
    } finally {
      await rm(path, { recursive: true });
    }
  });

  it('stands by at the far end of a slow line before libvirt loses its patience', async () => {
    const directory = await temporaryDirectory();
    const { path } = directory;
    await withOrigin(TIB, path, async (socket) => {
      const wan = await startWan({ to: socket, rttMs: 80 });
      try {
        const args = ['--image', join(path, 'b.img'), '--origin', `nbd://${wan.address}/disk`];
        const began = performance.now();
        const proxy = await startExport('proxy', 'disk', join(path, 'b'), args);
        const seconds = (performance.now() - began) / 1000;
        const { originDataBytes } = await proxy.status();
        await proxy.end();
        assert.ok(seconds < 15, `it took ${seconds} s`);
        assert.equal(originDataBytes, 0);
      } finally {
        await wan.stop();
      }
    });
    await directory.remove();
  });

  it('that is empty is complete after a few round trips, not after thousands', async () => {
    const directory = await temporaryDirectory();
    const { path } = directory;
    await withOrigin(TIB / 4, path, async (socket) => {
      const wan = await startWan({ to: socket, rttMs: 80 });
      try {
        const args = ['--image', join(path, 'b.img'), '--origin', `nbd://${wan.address}/disk`];
        const proxy = await startExport('proxy', 'disk', join(path, 'b'), [...args, '--takeover', 'now']);
        const status = await proxy.until(({ state }) => state === 'serving', 40_000);
        await proxy.end();
        // A stretch of 128 MiB a round trip would take 160 s.
        assert.ok(status.secondsSinceTakeover < 30, `it took ${status.secondsSinceTakeover} s`);
        assert.equal(status.skippedBytes, TIB / 4);
      } finally {
        await wan.stop();
      }
    });
    await directory.remove();
  });
});
