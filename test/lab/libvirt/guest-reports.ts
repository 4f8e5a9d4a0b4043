/** What a guest prints about its disks when it is stopped: the last write of every block (guest/init.c, `dump`). */
import { BLOCK_SIZE, FNV_START, fnv, type Writes } from './pattern.ts';

export type DiskReport = { sizeBytes: number; errors: number; writes: Writes };

/**
 * @param lines of its console, from the command on. @returns by target
 * @throws Error when a part of a report is missing
 */
export function readReports(lines: readonly string[]): Map<string, DiskReport> {
  const reports = new Map<string, DiskReport>();
  let writes = new Map<number, number>();
  for (const line of lines) {
    const [, verb, target, rest] = /^xnbd: (dump|w|end) (\S+) (.*)$/.exec(line) ?? [];
    if (verb === undefined || target === undefined || rest === undefined) continue;
    if (verb === 'dump') {
      writes = new Map();
      const number = (name: string): number => Number(new RegExp(`${name}=(\\d+)`).exec(rest)?.[1]);
      reports.set(target, { sizeBytes: number('blocks') * BLOCK_SIZE, errors: number('errors'), writes });
    } else if (verb === 'w') {
      for (const pair of rest.split(' ')) {
        const [block, seq] = pair.split(':').map((word) => Number.parseInt(word, 16)) as [number, number];
        writes.set(block, seq);
      }
    } else {
      let sum = FNV_START;
      for (const [block, seq] of writes) sum = fnv(fnv(sum, block), seq);
      const wanted = `entries=${writes.size} sum=${(sum >>> 0).toString(16).padStart(8, '0')}`;
      if (rest !== wanted)
        throw new Error(`the console lost a part of the report on ${target}: ${rest}, got ${wanted}`);
    }
  }
  return reports;
}
