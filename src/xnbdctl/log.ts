/**
 * `xnbdctl log`: the life of a disk on this host, as the journal has it: of daemon, gateway and exports
 * together.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { exportPaths, type HostPaths } from '../config/export-paths.ts';

const journalSocket = '/run/systemd/journal/socket';

/**
 * Runs journalctl, which writes to our own output, until it ends.
 * @param follow goes on with what is said from now on
 * @throws Error that says where else the log is, where there is no journal
 */
export async function showLog(paths: HostPaths, name: string, follow: boolean): Promise<void> {
  const elsewhere = `what the export of ${name} says is in ${exportPaths(paths, name).log}`;
  if (!existsSync(journalSocket)) throw new Error(`this host has no systemd-journald: ${elsewhere}`);
  const child = spawn('journalctl', [`XNBD_EXPORT=${name}`, ...(follow ? ['--follow'] : [])], {
    stdio: 'inherit',
  });
  // An interruption is for journalctl, which then ends.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill(signal));
  const [code] = (await once(child, 'exit').catch((error: unknown) => {
    throw new Error(`journalctl cannot be run (${(error as Error).message}): ${elsewhere}`);
  })) as [number | null];
  if (code !== null && code !== 0) throw new Error(`journalctl has ended with exit code ${code}`);
}
