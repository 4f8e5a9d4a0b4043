/** What the servers are put to: fio's rows, and nbdcopy there and back. */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export interface Row {
  name: string;
  rw: 'randread' | 'randwrite' | 'read' | 'write';
  blockBytes: number;
  depth: number;
  connections: number;
}

const KIB = 1024;

/** The five rows that everything is judged by. */
export const rows: readonly Row[] = [
  { name: 'read 4K qd1', rw: 'randread', blockBytes: 4 * KIB, depth: 1, connections: 1 },
  { name: 'read 4K qd32', rw: 'randread', blockBytes: 4 * KIB, depth: 32, connections: 1 },
  { name: 'write 4K qd32', rw: 'randwrite', blockBytes: 4 * KIB, depth: 32, connections: 1 },
  { name: 'read 256K qd8', rw: 'read', blockBytes: 256 * KIB, depth: 8, connections: 1 },
  { name: 'write 256K qd8', rw: 'write', blockBytes: 256 * KIB, depth: 8, connections: 1 },
];

export const connectionRows: readonly Row[] = [
  { name: '4 x read 4K qd8', rw: 'randread', blockBytes: 4 * KIB, depth: 8, connections: 4 },
  { name: '4 x write 4K qd8', rw: 'randwrite', blockBytes: 4 * KIB, depth: 8, connections: 4 },
  { name: '4 x read 256K qd2', rw: 'read', blockBytes: 256 * KIB, depth: 2, connections: 4 },
];

/** @returns MB/s */
export async function fio(uri: string, row: Row, seconds: number): Promise<number> {
  const { stdout } = await execute('fio', [
    '--name=row',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--rw=${row.rw}`,
    `--bs=${row.blockBytes}`,
    `--iodepth=${row.depth}`,
    `--numjobs=${row.connections}`,
    `--runtime=${Math.round(seconds * 1000)}ms`,
    '--time_based',
    '--ramp_time=200ms',
    '--group_reporting',
    '--randrepeat=0',
    '--norandommap',
    '--output-format=json',
  ]);
  const { jobs } = JSON.parse(stdout.slice(stdout.indexOf('{'))) as {
    jobs: { error: number; read: { bw_bytes: number }; write: { bw_bytes: number } }[];
  };
  const job = jobs[0]!;
  if (job.error !== 0) throw new Error(`fio ends with error ${job.error}`);
  return (job.read.bw_bytes + job.write.bw_bytes) / 1e6;
}

/** Copies a local image to a server. @returns MB/s of the image's size, holes counted */
export async function copyIn(image: string, sizeBytes: number, uri: string): Promise<number> {
  return sizeBytes / 1e3 / (await timed('nbdcopy', [image, uri]));
}

/**
 * Copies a server's disk to a local file, which is removed again. @returns MB/s of its size, holes counted
 */
export async function copyOut(uri: string, sizeBytes: number, to: string): Promise<number> {
  await rm(to, { force: true });
  const milliseconds = await timed('nbdcopy', [uri, to]);
  await rm(to);
  return sizeBytes / 1e3 / milliseconds;
}

async function timed(program: string, args: string[]): Promise<number> {
  const began = performance.now();
  await execute(program, args);
  return performance.now() - began;
}
