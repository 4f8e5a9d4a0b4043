/** A disk's stay at a host: one export, from its arrival until its image is nobody's any more. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connectControl } from '../../../src/control/client.ts';
import type { ControlMethod } from '../../../src/control/methods.ts';
import type { ExportStatus } from '../../../src/control/status.ts';
import { exportRuns } from '../../../src/daemon/exports/export-process.ts';
import type { ExportRecord } from '../../../src/store/records/record.ts';
import type { ChaosHost } from './host.ts';

/** One that is frozen does not answer. */
const ANSWER_LIMIT_MS = 3000;

export interface Stay {
  readonly host: ChaosHost;
  /** Of the export. */
  readonly name: string;
  readonly socket: string;
  readonly ctl: string;
  readonly image: string;
  readonly stateDir: string;
  /** Its process was killed so often: its connections may break. */
  kills: number;
  /** The last process that was seen. */
  pid: number;
}

export function stayAt(host: ChaosHost, name: string): Stay {
  return {
    host,
    name,
    socket: join(host.run, `${name}.sock`),
    ctl: join(host.run, `${name}.ctl`),
    image: join(host.images, `${name}.img`),
    stateDir: join(host.exports, name),
    kills: 0,
    pid: 0,
  };
}

/** undefined: nobody answers now. */
export async function statusOf(stay: Stay): Promise<ExportStatus | undefined> {
  try {
    const client = await connectControl(stay.ctl);
    try {
      const status = (await client.call('status', ANSWER_LIMIT_MS)) as ExportStatus;
      stay.pid = status.pid;
      return status;
    } finally {
      client.close();
    }
  } catch {
    return undefined;
  }
}

/** @throws Error of one line when it refuses, is gone, or does not answer in 15 s. */
export async function call(stay: Stay, method: ControlMethod): Promise<void> {
  const client = await connectControl(stay.ctl);
  try {
    await client.call(method, 15_000);
  } finally {
    client.close();
  }
}

/** The process that has the disk now, as far as is known; 0: none. */
export async function pidOf(stay: Stay): Promise<number> {
  await statusOf(stay);
  return stay.pid !== 0 && (await exportRuns(stay.pid, stay.name)) ? stay.pid : 0;
}

/** The record as it is on disk; undefined: there is none. */
export function recordOf(stay: Stay): ExportRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(stay.stateDir, 'export.json'), 'utf8')) as ExportRecord;
  } catch {
    return undefined;
  }
}
