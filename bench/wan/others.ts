/** What other programs need to bring the same bytes over the same line: no guest, plain TCP. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isInstalled } from '../../test/lab/installed.ts';
import { addressOf, PacketWan } from '../../test/lab/net/packets/packet-wan.ts';
import { run, start } from '../../test/lab/processes.ts';
import { makeDisks } from './hosts.ts';
import type { Case } from './run.ts';

const PORT = '10810';

interface Other {
  name: string;
  needs: string[];
  server: (image: string) => string[];
  copy: (uri: string, to: string) => string[];
}

const others: readonly Other[] = [
  {
    name: 'nbdcopy',
    needs: ['nbdkit', 'nbdcopy'],
    server: (image) => ['nbdkit', '-f', '-r', '-i', addressOf.a, '-p', PORT, 'file', image],
    copy: (uri, to) => ['nbdcopy', uri, to],
  },
  {
    name: 'qemu-img',
    needs: ['qemu-nbd', 'qemu-img'],
    server: (image) => ['qemu-nbd', '-r', '-f', 'raw', '-b', addressOf.a, '-p', PORT, '-t', '-e', '8', image],
    copy: (uri, to) => ['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', '-n', '-W', uri, to],
  },
];

/** @returns seconds of each that is installed, by name */
export async function copyByOthers(
  { rttMs, rateMbit, seconds, loss, congestion }: Case,
  directory: string,
): Promise<Map<string, number>> {
  const took = new Map<string, number>();
  const sizeBytes = Math.ceil((seconds * rateMbit * 1e6) / 8 / 2 ** 20) * 2 ** 20;
  await mkdir(directory, { recursive: true });
  const [disk] = await makeDisks(directory, 1, sizeBytes);
  for (const { name, needs, server, copy } of others) {
    if (!needs.every(isInstalled)) continue;
    const wan = await PacketWan.start({ rttMs, rateMbit, congestion });
    await wan.set('ab', { loss });
    const serving = await start(wan.at('a', server(disk!.image)), { log: join(directory, `${name}.log`) });
    const to = join(directory, 'copy.img');
    try {
      await run(['truncate', '-s', String(sizeBytes), to]);
      await new Promise((resolve) => setTimeout(resolve, 500));
      const began = performance.now();
      const uri = `nbd://${addressOf.a}:${PORT}`;
      await run(wan.at('b', copy(uri, to)), { timeoutMs: (seconds * 8 + 30) * 1000 });
      took.set(name, (performance.now() - began) / 1000);
    } catch (error) {
      console.log(`  ${name}: ${(error as Error).message}`);
    } finally {
      await serving.end('SIGKILL');
      await wan.stop();
      await rm(to, { force: true });
    }
  }
  await rm(directory, { recursive: true, force: true });
  return took;
}
