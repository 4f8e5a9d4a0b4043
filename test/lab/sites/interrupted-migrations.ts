/** Migrations that are interrupted midway, and what the logs tell of them. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import type { Guest } from '../libvirt/guest.ts';
import { waitFor } from '../wait-for.ts';
import type { Site, Sites } from './sites.ts';

/** Migrates from a to b, in vain, over a link so slow that `interrupt` comes in the middle of the memory; what virsh said. */
export async function interrupted(
  sites: Sites,
  guest: Guest,
  interrupt: () => Promise<unknown>,
): Promise<string> {
  const { lab, a, b } = sites;
  await lab.setRate(10);
  const migration = guest.migrate(a.host, b.host, '--live').then(
    () => 'migrated',
    (error: unknown) => (error as Error).message,
  );
  for (const { export: disk } of guest.spec.disks) {
    await waitFor(`${disk} to stand by`, async () => (await b.status(disk))?.state === 'standby');
    assert.equal((await a.status(disk))?.state, 'lent');
  }
  await memoryFlows(a, guest);
  await interrupt();
  const said = await migration;
  await lab.setRate(undefined);
  return said;
}

/** Waits until some of a guest's memory has gone. */
export async function memoryFlows(from: Site, guest: Guest): Promise<void> {
  await waitFor('the memory to flow', async () =>
    /Memory processed: +[1-9]/.test(await from.host.virsh('domjobinfo', guest.name)),
  );
}

/** What the daemon of a site, or (with a name) one of its exports, has written in its log. */
export function logOf(site: Site, name?: string): Promise<string> {
  const path = name === undefined ? site.daemon.log : site.host.outside(`/var/lib/xnbd/log/${name}.log`);
  return readFile(path, 'utf8');
}

/** Waits for a line of that log. */
export async function logTells(site: Site, pattern: RegExp, name?: string): Promise<void> {
  await waitFor(`${pattern} in the log of ${name ?? 'xnbdd'} on ${site.host.name}`, async () =>
    pattern.test(await logOf(site, name)),
  );
}

/** For a log of many moves: what is called with a pattern waits for a line that was written after this. */
export async function newLinesOf(site: Site): Promise<(pattern: RegExp) => Promise<void>> {
  const from = (await logOf(site)).length;
  return async (pattern) => {
    const told = async () => pattern.test((await logOf(site)).slice(from));
    await waitFor(`${pattern} in the log of xnbdd on ${site.host.name}`, told);
  };
}
