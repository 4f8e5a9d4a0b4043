/** `xnbdctl verify`: has a disk compared with its origin, shows how far that is, and says what came of it. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ControlClient } from '../control/client.ts';
import type { ExportStatus, VerificationStatus } from '../control/status.ts';
import { formatBytes, formatShare } from '../log/numbers.ts';
import { connectRunning } from './known-exports.ts';

const LOOK_MS = 200;
/** So many stretches are named. */
const NAMED = 20;

/**
 * Resolves when the disk is found equal.
 * @throws Error naming the export when it differs, cannot be compared, or ends meanwhile.
 */
export async function verify(path: string, name: string | undefined, out: NodeJS.WriteStream): Promise<void> {
  let latest: ExportStatus | undefined;
  const client = await connectRunning(path, (status) => {
    latest = status;
  });
  try {
    const { name: called, origin } = await theExport(client, name, path);
    await client.watch();
    await asked(client, called, 'verify');
    latest = await client.status();
    const ended = new AbortController();
    void client.closed.then(() => ended.abort());
    while (isRunning(latest) && !ended.signal.aborted) {
      if (out.isTTY) out.write(`\r${progress(latest)}\u001b[K`);
      await sleep(LOOK_MS);
    }
    if (out.isTTY) out.write('\r\u001b[K');
    const result = latest.verification;
    if (result === null || result.state === 'running')
      throw new Error(`${called} ended before the result was known: see its log`);
    out.write(report(called, origin ?? 'its origin', result));
    if (result.state === 'failed') throw new Error(`${called} could not be compared: ${result.error}`);
    if (result.state === 'differs')
      throw new Error(
        `${called} differs from its origin, which is kept; 'xnbdctl verify ${called} --accept' takes the disk as it is here`,
      );
  } finally {
    client.close();
  }
}

/**
 * The differences that were found stay, and the origin may go. @returns what is so now, in one line. @throws
 * Error when there are none.
 */
export async function accept(path: string, name: string | undefined): Promise<string> {
  const client = await connectRunning(path);
  try {
    const { name: called } = await theExport(client, name, path);
    await asked(client, called, 'accept');
    return `${called}: taken as it is here; its origin may go`;
  } finally {
    client.close();
  }
}

async function theExport(
  client: ControlClient,
  name: string | undefined,
  path: string,
): Promise<ExportStatus> {
  const status = await client.status();
  if (name === undefined || status.name === name) return status;
  throw new Error(`${path} is the socket of ${status.name}, not ${name}`);
}

async function asked(client: ControlClient, name: string, method: 'verify' | 'accept'): Promise<void> {
  try {
    await client.call(method);
  } catch (error) {
    const { message } = error as Error;
    throw message.startsWith(name) ? error : new Error(`${name}: ${message}`);
  }
}

function isRunning({ verification }: ExportStatus): boolean {
  return verification?.state === 'running';
}

function progress({ name, sizeBytes, verification, originReachable }: ExportStatus): string {
  const { walkedBytes = 0, differentBytes = 0 } = verification ?? {};
  const parts = [`${name}  compared with its origin: ${formatShare(walkedBytes, sizeBytes)}`];
  if (differentBytes > 0) parts.push(`${formatBytes(differentBytes)} different`);
  if (!originReachable) parts.push('origin unreachable');
  return parts.join('  ');
}

/** What came of it, in a few lines. */
function report(name: string, origin: string, result: VerificationStatus): string {
  const { by, comparedBytes, writtenBytes, absentBytes, differentBytes, doubtfulBytes } = result;
  const lines: string[] = [];
  if (result.state === 'passed') lines.push(`${name} is equal to ${origin}`);
  if (differentBytes > 0)
    lines.push(
      `${name} differs from ${origin} in ${differentBytes} bytes`,
      ...places(result.different, differentBytes),
    );
  lines.push(`  ${formatBytes(comparedBytes)} compared and equal, by ${by}`);
  if (writtenBytes > 0) lines.push(`  ${formatBytes(writtenBytes)} not compared: written since the takeover`);
  if (absentBytes > 0) lines.push(`  ${formatBytes(absentBytes)} not compared: not here yet`);
  if (doubtfulBytes > 0)
    lines.push(
      `  ${doubtfulBytes} bytes differ and may have been written before a loss of power:`,
      ...places(result.doubtful, doubtfulBytes),
    );
  return `${lines.join('\n')}\n`;
}

function places(ranges: VerificationStatus['different'], bytes: number): string[] {
  const named = ranges.slice(0, NAMED);
  const lines = named.map(({ offset, length }) => `  at offset ${offset}: ${length} bytes`);
  const left = bytes - named.reduce((sum, { length }) => sum + length, 0);
  return left > 0 ? [...lines, `  elsewhere: ${left} bytes`] : lines;
}
