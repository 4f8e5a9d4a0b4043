/**
 * `xnbdctl takeover`, `abandon`, `set` and `origin-timeout`: what an administrator may tell a disk that
 * arrives.
 */
import type { MethodParameters } from '../control/methods.ts';
import type { ExportStatus } from '../control/status.ts';
import { connectRunning } from './known-exports.ts';

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function takeOver(path: string, name: string | undefined): Promise<string> {
  const { status } = await order(path, name, 'takeover');
  return `${status.name}: ${status.state}; this host owns the disk`;
}

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function abandon(path: string, name: string | undefined): Promise<string> {
  const { status } = await order(path, name, 'abandon');
  return `${status.name}: given up; the disk stays with ${status.origin ?? 'its origin'}`;
}

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function setOriginTimeout(
  path: string,
  name: string | undefined,
  text: string,
): Promise<string> {
  // Every release knows this method, and takes a number for seconds.
  const timeout = /^\d+$/.test(text) ? Number(text) : text;
  const { name: called, originTimeoutSeconds } = (await order(path, name, 'origin-timeout', { timeout }))
    .status;
  return originTimeoutSeconds === null
    ? `${called}: requests wait for the origin for ever`
    : `${called}: requests wait for the origin for ${originTimeoutSeconds} s, then they get EIO`;
}

/** @returns what is so now, in one line. @throws Error naming the export and why it refuses. */
export async function setSetting(
  path: string,
  name: string | undefined,
  key: string,
  value: string,
): Promise<string> {
  const { status, result } = await order(path, name, 'set', { key, value });
  return `${status.name}: ${key} = ${String(result)}`;
}

/** @returns the answer, and the status afterwards; before an abandon, when there still is one. */
async function order(
  path: string,
  name: string | undefined,
  method: 'takeover' | 'abandon' | 'set' | 'origin-timeout',
  parameters: MethodParameters = {},
): Promise<{ status: ExportStatus; result: unknown }> {
  const client = await connectRunning(path);
  try {
    const before = await client.status();
    if (name !== undefined && before.name !== name) {
      throw new Error(`${path} is the socket of ${before.name}, not ${name}`);
    }
    let result: unknown;
    try {
      result = await client.call(method, undefined, parameters);
    } catch (error) {
      throw new Error(`${before.name}: ${(error as Error).message}`);
    }
    return { result, status: method === 'abandon' ? before : await client.status() };
  } finally {
    client.close();
  }
}
