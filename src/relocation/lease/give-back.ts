/**
 * Gives the origin its disk back, when a move is given up.
 *
 * In standby, too: a takeover that failed half way, or an earlier process that died in it, may have left the
 * origin fenced, and only the lease holder can lift that. And our record calls what was kept void
 * before the origin is asked: it may be written there from then on, so that a restart here must not go on
 * from it, nor fence the origin again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from '../../nbd/constants.ts';
import type { RecordKeeper } from '../../store/records/record-keeper.ts';
import type { OriginLink } from '../origin/link.ts';
import { command } from './commands.ts';

/** How long an origin that cannot be reached is waited for. */
const PATIENCE_MS = 5000;
const LOOK_EVERY_MS = 50;

export interface GiveBackOptions {
  keeper: RecordKeeper;
  link: OriginLink;
  /** This process has asked for the fence. */
  askedToFence: boolean;
}

/**
 * The caller lets no change in any more. @throws Error, one line, when the origin cannot be told, or refuses;
 * then nothing has changed.
 */
export async function giveBack({ keeper, link, askedToFence }: GiveBackOptions): Promise<void> {
  const { name, state, takenOverAt, generation, origin } = keeper.record;
  for (let waited = 0; link.unreachableSince !== null && waited < PATIENCE_MS; waited += LOOK_EVERY_MS)
    await sleep(LOOK_EVERY_MS);
  if (link.unreachableSince !== null) {
    // Without the fence the lease has ended with the connection.
    if (link.fenced === false && !askedToFence) return;
    throw new Error(`${name}: its origin cannot be reached, and stays fenced until it is; try again then`);
  }
  if (takenOverAt !== null)
    await keeper.update({ state: 'standby', takenOverAt: null, generation: origin!.generation });
  try {
    await command(link, origin!.uri, Command.XNBD_GIVE_BACK, 'give back');
  } catch (error) {
    if (takenOverAt !== null) await keeper.update({ state, takenOverAt, generation });
    throw error;
  }
}
