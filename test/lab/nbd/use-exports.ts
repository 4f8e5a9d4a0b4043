/**
 * Origins and proxies in a directory of their own, and slow lines between them, which are there for one test.
 */
import { join } from 'node:path';
import { startWan, type Wan } from '../net/wan.ts';
import { processesOf, signalTo } from '../processes.ts';
import { temporaryDirectory } from '../temporary-directory.ts';
import { type ExportProcess, startExport } from './export-process.ts';

export interface Exports {
  /** Of a file in the directory. */
  path: (name: string) => string;
  /** Starts an export `disk` of a site: its socket is `SITE`, its image `SITE.img` or what is named. */
  start: (
    kind: 'target' | 'proxy',
    site: string,
    args?: readonly string[],
    image?: string,
  ) => Promise<ExportProcess>;
  /** A line to the export of a site. */
  line: (to: string, line: { rttMs: number; rateMbit: number }) => Promise<Wan>;
}

/** Called in a `describe`: each of its tests begins with an empty directory, and leaves nothing. */
export function useExports(): Exports {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  const started: ExportProcess[] = [];
  const lines: Wan[] = [];

  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(async () => {
    for (const line of lines) await line.resume();
    for (const each of started.splice(0).reverse()) await each.end('SIGKILL');
    // Those that have taken the place of others.
    for (const [pid, command] of await processesOf(directory.path))
      if (command.includes('xnbd-export')) signalTo(pid, 'SIGKILL');
    for (const line of lines.splice(0)) await line.stop();
    await directory.remove();
  });

  const path = (name: string) => join(directory.path, name);
  return {
    path,
    start: async (kind, site, args = [], image = `${site}.img`) => {
      const each = await startExport(kind, 'disk', path(site), ['--image', path(image), ...args]);
      started.push(each);
      return each;
    },
    line: async (to, options) => {
      const line = await startWan({ to: path(to), ...options });
      lines.push(line);
      return line;
    },
  };
}
