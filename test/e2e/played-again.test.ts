/** A title is played again when its emulation has lost its guest, and only then (../lab/libvirt/stage.ts). */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import { Theatre } from '../lab/libvirt/stage.ts';
import { createSites, type Sites, startedGuest } from '../lab/sites/sites.ts';
import { freezeCpu, freezeExport } from '../lab/sites/standstills.ts';
import { useSites } from '../lab/sites/use-sites.ts';

describe('a title whose guest stands still', function () {
  this.timeout(180_000);

  /** Plays a title whose guest is brought to a standstill in its first `times` plays. @returns how often it was played */
  async function played(
    times: number,
    spoil: (sites: Sites, guest: Guest) => Promise<unknown>,
  ): Promise<number> {
    let plays = 0;
    let guest: Guest;
    const theatre = new Theatre(() => createSites());
    theatre.beginnings.push(async () => {
      guest = await startedGuest(theatre.stage, 'vm1', ['rewrite'], 16);
    });
    try {
      await theatre.plays('its guest stands still', async () => {
        if (++plays <= times) {
          await spoil(theatre.stage, guest);
          // What it did until now is in its next heartbeat.
          await sleep(1500);
        }
        await guest.progress(1, 5000);
      });
      return plays;
    } catch (error) {
      throw new Error(`${plays} plays: ${(error as Error).message}`);
    } finally {
      await theatre.close();
    }
  }

  const { it } = useSites();

  it('by TCG’s fault is played again, twice at most', async () => {
    assert.equal(await played(1, freezeCpu), 2);
    await assert.rejects(
      played(3, (_, guest) => guest.panic()),
      /^Error: 3 plays: guest vm1 has crashed: /,
    );
  });

  it('because it waits for a disk fails at once', async () => {
    await assert.rejects(
      played(1, (on) => freezeExport(on, 'vm1-vda')),
      /^Error: 1 plays: waited 5 s in vain/,
    );
  });
});
