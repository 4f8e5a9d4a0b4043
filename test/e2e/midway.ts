/** Migrations that are interrupted midway, and what has to be so after one that came to nothing. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import type { Guest } from '../lab/guest.ts';
import { waitFor } from '../lab/processes.ts';
import type { Site, Sites } from './sites.ts';

/** Migrates from a to b over a link so slow that `interrupt` comes in the middle of the memory; what virsh said. */
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
  await waitFor('the memory to flow', async () =>
    /Memory processed: +[1-9]/.test(await a.host.virsh('domjobinfo', guest.name)),
  );
  await interrupt();
  const said = await migration;
  await lab.setRate(undefined);
  return said;
}

/** Nothing is at b: no process, no socket, no image, no record, no domain. */
export async function nothingAt(site: Site, limitMs = 60_000): Promise<void> {
  const { host } = site;
  await waitFor(
    `nothing to be left on ${host.name}`,
    async () => (await site.leftovers()).length === 0,
    limitMs,
  ).catch(async (error: unknown) => {
    throw new Error(`${(error as Error).message}: ${(await site.leftovers()).join(' ')}`);
  });
  await waitFor(`the end of the exports on ${host.name}`, async () => (await site.processes()).size === 0);
  await waitFor(
    `no domain on ${host.name}`,
    async () => (await host.virsh('list', '--all', '--name')) === '',
  );
}

/** The guest has run on at a all the while, and its disks are a's alone. */
export async function runsOn(sites: Sites, guest: Guest): Promise<void> {
  const { a, b } = sites;
  await nothingAt(b);
  for (const { export: disk } of guest.spec.disks) {
    await waitFor(
      `the lease of ${disk} to end`,
      async () => (await a.status(disk))?.state === 'serving',
      60_000,
    );
    const { generation, lease, movedTo } = (await a.status(disk))!;
    assert.deepEqual({ generation, lease, movedTo }, { generation: 1, lease: null, movedTo: null });
  }
  await waitFor('the guest to run', async () => (await a.host.virsh('domstate', guest.name)) === 'running');
  await guest.progress();
  assert.deepEqual(guest.errors, []);
}

/** What the daemon of a site, or (with a name) one of its exports, has written in its log. */
export function logOf(site: Site, name?: string): Promise<string> {
  const path = name === undefined ? site.daemon.log : site.host.outside(`/run/xnbd/${name}.log`);
  return readFile(path, 'utf8');
}

/** Waits for a line of that log. */
export async function logTells(site: Site, pattern: RegExp, name?: string): Promise<void> {
  await waitFor(`${pattern} in the log of ${name ?? 'xnbdd'} on ${site.host.name}`, async () =>
    pattern.test(await logOf(site, name)),
  );
}
