/**
 * Ends of guests that libvirt told while no daemon answered. libvirt tells an end once, and where libvirt
 * cannot be asked later (no libvirt-dbus) a disk whose guest has left would count as used for ever. So
 * xnbd-hook leaves the call that it could not deliver as a file `missed/TIME-PID.json` in the run directory,
 * and it is answered here: when the daemon starts, before the next hook of any guest, and now and then,
 * because a hook may fail at the very moment at which the daemon begins to listen. The hooks of one guest
 * follow each other, so an end that was missed is answered before that guest's next beginning.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../../config/config.ts';
import { log } from '../../log/log.ts';
import { type HookCall, readHookCall } from './server.ts';

function directory(config: Config): string {
  return join(config.paths.run, 'missed');
}

/** Makes the directory, without which xnbd-hook leaves nothing. */
export async function openMissedEnds(config: Config): Promise<void> {
  await mkdir(directory(config), { recursive: true, mode: 0o700 });
}

/**
 * Answers what is there, the oldest first. A call is deleted once it has been answered: `stopped` and
 * `release` may come twice.
 */
export async function answerMissedEnds(
  config: Config,
  answer: (call: HookCall) => Promise<unknown>,
): Promise<void> {
  // A directory that was deleted is no reason to refuse a guest.
  const files = await readdir(directory(config)).catch(() => [] as string[]);
  for (const file of files.filter((each) => each.endsWith('.json')).sort()) {
    const path = join(directory(config), file);
    try {
      const call = readHookCall(await readFile(path, 'utf8'));
      log.info(`hook ${call.op} of ${call.guest} came while no daemon ran: it is answered now`, {
        domain: call.guest,
      });
      await answer(call);
    } catch (error) {
      log.warning(`${path} tells no hook call: ${(error as Error).message}`);
    }
    await rm(path, { force: true });
  }
}
