/** `xnbdctl takeover`, `abandon` and `origin-timeout`: what an administrator may tell a disk that arrives. */
import type { MethodParameters } from '../control/methods.ts';
import type { OriginTimeout } from '../control/protocol.ts';
import type { ExportStatus } from '../control/status.ts';
import { connectRunning } from './known-exports.ts';

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function takeOver(path: string, name: string | undefined): Promise<string> {
  const status = await order(path, name, 'takeover');
  return `${status.name}: ${status.state}; this host owns the disk`;
}

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function abandon(path: string, name: string | undefined): Promise<string> {
  const status = await order(path, name, 'abandon');
  return `${status.name}: given up; the disk stays with ${status.origin ?? 'its origin'}`;
}

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function setOriginTimeout(
  path: string,
  name: string | undefined,
  timeout: OriginTimeout,
): Promise<string> {
  const { name: called, originTimeoutSeconds } = await order(path, name, 'origin-timeout', { timeout });
  return originTimeoutSeconds === null
    ? `${called}: requests wait for the origin for ever`
    : `${called}: requests wait for the origin for ${originTimeoutSeconds} s, then they get EIO`;
}

/** @returns the status afterwards; before an abandon, when there still is one. */
async function order(
  path: string,
  name: string | undefined,
  method: 'takeover' | 'abandon' | 'origin-timeout',
  parameters: MethodParameters = {},
): Promise<ExportStatus> {
  const client = await connectRunning(path);
  try {
    const before = await client.status();
    if (name !== undefined && before.name !== name) {
      throw new Error(`${path} is the socket of ${before.name}, not ${name}`);
    }
    try {
      await client.call(method, undefined, parameters);
    } catch (error) {
      throw new Error(`${before.name}: ${(error as Error).message}`);
    }
    return method === 'abandon' ? before : await client.status();
  } finally {
    client.close();
  }
}
