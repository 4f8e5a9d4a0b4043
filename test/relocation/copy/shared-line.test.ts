/**
 * Two disks of a host arrive over one slow line: what is copied of one in the background starves no guest's
 * read of the other, also after an outage.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Gateway, startGateway } from '../../../src/gateway/gateway.ts';
import { listenPlain } from '../../../src/gateway/transport.ts';
import { configureLog } from '../../../src/log/log.ts';
import { bytesOf } from '../../lab/model/content.ts';
import { type Client, connectClient } from '../../lab/nbd/client.ts';
import { type ExportProcess, startExport } from '../../lab/nbd/export-process.ts';
import { startWan, type Wan } from '../../lab/net/wan.ts';
import { temporaryDirectory } from '../../lab/temporary-directory.ts';

const BLOCK = 4096;
const MIB = 1024 * 1024;
const SIZE = 32 * MIB;
/** What 4 Mbit/s carry. */
const BYTES_PER_MS = 500;
const OUTAGE_MS = 20_000;
const disks = ['vda', 'vdb'] as const;

describe('two disks on one line of 4 Mbit/s', function () {
  this.timeout(180_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let gateway: Gateway;
  let wan: Wan;
  let started: ExportProcess[];
  let guests: Client[];

  beforeEach(async () => {
    directory = await temporaryDirectory();
    configureLog({ level: 'error' });
    started = [];
    guests = [];
    for (const [at, name] of disks.entries()) {
      const image = `${directory.path}/${name}.img`;
      await writeFile(image, bytesOf(at + 1, SIZE));
      started.push(await startExport('target', name, `${directory.path}/${name}.sock`, ['--image', image]));
    }
    gateway = await startGateway({
      run: directory.path,
      tls: null,
      listen: (visit) => listenPlain({ host: '127.0.0.1', port: 0 }, visit),
    });
    wan = await startWan({ to: `127.0.0.1:${gateway.address.port}`, rttMs: 20, rateMbit: 4 });
    for (const name of disks) {
      const proxy = await startExport('proxy', name, `${directory.path}/${name}.b`, [
        ...['--image', `${directory.path}/${name}.b.img`, '--origin', `nbd://${wan.address}/${name}`],
      ]);
      started.push(proxy);
      const guest = await connectClient(proxy.uri);
      guests.push(guest);
      await guest.write(0, Buffer.alloc(BLOCK, 1));
    }
  });

  afterEach(async () => {
    for (const each of started.reverse()) await each.end('SIGKILL');
    await wan.stop();
    await gateway.close(0);
    configureLog({ level: 'info' });
    await directory.remove();
  });

  /**
   * Reads absent blocks of both disks, from the end on, until `over`. @returns for each read, what the line
   * carries in the time that it took, bytes
   */
  async function readUntil(over: () => boolean): Promise<number[][]> {
    return await Promise.all(
      guests.map(async (guest) => {
        const waits: number[] = [];
        for (let at = SIZE - BLOCK; !over(); at -= 16 * BLOCK) {
          const began = performance.now();
          await guest.read(at, BLOCK);
          waits.push((performance.now() - began) * BYTES_PER_MS);
          await sleep(100);
        }
        return waits;
      }),
    );
  }

  it('after an outage of 20 s no read waits for more than its share of the line', async () => {
    await sleep(8000);
    await wan.stall();
    let over = false;
    const reads = readUntil(() => over);
    await sleep(OUTAGE_MS);
    await wan.resume();
    // The reads that waited out the outage are answered.
    await Promise.all(started.slice(2).map((proxy) => proxy.until((status) => status.originReachable)));
    const [carried, since] = [(await wan.stats()).downBytes, performance.now()];
    await sleep(15_000);
    const used = ((await wan.stats()).downBytes - carried) / ((performance.now() - since) * BYTES_PER_MS);
    over = true;
    for (const [first, ...others] of await reads) {
      const inOutage = first! - OUTAGE_MS * BYTES_PER_MS;
      assert.ok(inOutage < 4 * MIB, `one waited for ${inOutage} bytes after the outage`);
      others.sort((a, b) => a - b);
      const [median, worst] = [others[Math.floor(others.length / 2)]!, others.at(-1)!];
      // Two chunks of either disk, and what is asked for on demand.
      assert.ok(median < 200 * 1024, `half of all wait for more than ${median} bytes`);
      assert.ok(worst < 2 * MIB, `one waited for ${worst} bytes`);
    }
    assert.ok(used > 0.7, `of the line ${used} is used`);
  });
});
