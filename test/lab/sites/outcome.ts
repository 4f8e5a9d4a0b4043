/** What has to be so whenever a move has ended, well or not: one host can write, and the others keep nothing. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { readRecord } from '../../../src/store/records/record.ts';
import type { Guest } from '../libvirt/guest.ts';
import type { DiskReport } from '../libvirt/guest-reports.ts';
import { waitFor } from '../wait-for.ts';
import { arrived, type Site, type Sites, signalsOf, wrongBytes } from './sites.ts';

/** What each disk is at a site, by its process, or by its record where none runs; undefined where the site does not know it. */
export function states(site: Site, guest: Guest, suffix = ''): Promise<(string | undefined)[]> {
  return Promise.all(
    guest.spec.disks.map(async ({ export: disk }) => {
      const name = `${disk}${suffix}`;
      return (await site.status(name))?.state ?? (await recordOf(site, name))?.state;
    }),
  );
}

const recordOf = (site: Site, name: string) =>
  readRecord(site.host.outside(`/var/lib/xnbd/exports/${name}`)).catch(() => undefined);

/** Waits until every disk is that at a site. */
export async function become(site: Site, guest: Guest, state: string, limitMs?: number): Promise<void> {
  let last: unknown;
  await waitFor(
    `the disks of ${guest.name} to be ${state} on ${site.host.name}`,
    async () => {
      const found = await states(site, guest);
      last = found;
      return found.every((each) => each === state);
    },
    limitMs,
  ).catch((error: unknown) => {
    throw new Error(`${(error as Error).message}: ${String(last)}`);
  });
}

/** Each disk may be written at `owner`, and nowhere else: whoever tries at another host is refused. */
export async function writableOnlyAt(sites: Sites, guest: Guest, owner: Site): Promise<void> {
  for (const site of sites.all) {
    for (const [index, state] of (await states(site, guest)).entries()) {
      const disk = guest.spec.disks[index]!.export;
      const what = `${disk} is ${state} on ${site.host.name}`;
      if (site === owner) {
        assert.match(String(state), /^(serving|lent|relocating)$/, what);
        continue;
      }
      assert.match(String(state), /^(undefined|standby|fenced|retired|reclaimed)$/, what);
      // In standby a write is how the disk is taken over.
      if (state === 'standby' || (await site.status(disk)) === undefined) continue;
      const uri = `nbd+unix:///${disk}?socket=/run/xnbd/${disk}.sock`;
      const attempt = ['timeout', '10', 'qemu-io', '-f', 'raw', '-c', 'write -P 0 0 4096', uri];
      const { code, stdout, stderr } = await site.host.exec(attempt, { check: false });
      const said = `${what}; ${stdout}${stderr}`;
      assert.doesNotMatch(stdout, /wrote 4096/, said);
      // A no, and no silence.
      assert.ok(code !== 0 && code !== 124, said);
    }
  }
}

/** Waits until a site has no export, no socket, no image and no record. */
export async function emptied(site: Site, limitMs = 60_000): Promise<void> {
  const { host } = site;
  await waitFor(
    `nothing to be left on ${host.name}`,
    async () => (await site.leftovers()).length === 0,
    limitMs,
  ).catch(async (error: unknown) => {
    throw new Error(`${(error as Error).message}: ${(await site.leftovers()).join(' ')}`);
  });
  await waitFor(`the end of the exports on ${host.name}`, async () => (await site.processes()).size === 0);
}

/** Waits until the daemon believes no domain to use a disk there. Where no hook could tell it, that takes a minute. */
export async function unused({ host }: Site): Promise<void> {
  const using = async () => await readdir(host.outside('/run/xnbd/domains')).catch(() => []);
  await waitFor(`no domain to use disks on ${host.name}`, async () => (await using()).length === 0);
}

/** Nothing is at a site, and libvirt knows no domain there either. */
export async function nothingAt(site: Site, limitMs?: number): Promise<void> {
  await emptied(site, limitMs);
  const { host } = site;
  await waitFor(
    `no domain on ${host.name}`,
    async () => (await host.virsh('list', '--all', '--name')) === '',
  );
}

/** Before a title that moves a guest on: it works at a site, its disks are served there, and no daemon was left dead. */
export async function atWork(sites: Sites, guest: Guest, here: Site): Promise<void> {
  for (const { host, daemon, gateway } of sites.all)
    for (const [what, { process }] of Object.entries({ xnbdd: daemon, 'xnbd-gateway': gateway }))
      assert.ok(
        process.exitCode === null && process.signalCode === null,
        `${what} of ${host.name} has ended`,
      );
  assert.equal(await here.host.virsh('domstate', guest.name), 'running');
  for (const state of await states(here, guest)) assert.equal(state, 'serving');
  await guest.progress(1);
  assert.deepEqual(guest.errors, []);
}

/** The migration to b has come to nothing: the guest has run on at a all the while, and its disks are a's alone. */
export async function runsOn(sites: Sites, guest: Guest): Promise<void> {
  await runsOnAt(sites, guest, sites.a, sites.b);
  await unused(sites.b);
  for (const { export: disk } of guest.spec.disks) {
    const { generation, movedTo } = (await sites.a.status(disk))!;
    assert.deepEqual({ generation, movedTo }, { generation: 1, movedTo: null });
  }
}

/** The same for a migration between any two. */
export async function runsOnAt(sites: Sites, guest: Guest, here: Site, there: Site): Promise<void> {
  await nothingAt(there);
  await become(here, guest, 'serving', 60_000);
  for (const { export: disk } of guest.spec.disks) assert.equal((await here.status(disk))?.lease, null);
  await writableOnlyAt(sites, guest, here);
  await waitFor(
    'the guest to run',
    async () => (await here.host.virsh('domstate', guest.name)) === 'running',
  );
  await guest.progress();
  assert.deepEqual(guest.errors, []);
}

/**
 * Of the signals of a guest's relocations to `site` from number `since` on, the last is the completion, and the only
 * one; the guest works meanwhile.
 * @param daemons that have run at `site` since: one that is killed before it has noted that a signal is sent leaves
 * that to the next, which sends it again
 */
export async function completionTold(
  sites: Sites,
  site: Site,
  guest: Guest,
  since = 0,
  daemons = 1,
): Promise<void> {
  const names = () =>
    signalsOf(sites, site, guest)
      .slice(since)
      .map(({ name }) => name);
  await waitFor(`RelocationCompleted on ${site.host.name}`, () => names().includes('RelocationCompleted'));
  await guest.progress();
  const told = names().slice(names().indexOf('RelocationCompleted'));
  assert.ok(
    told.every((name) => name === 'RelocationCompleted'),
    names().join(),
  );
  assert.ok(told.length <= daemons, `${daemons} daemons told ${names().join()}`);
}

/** b owns the disks, misses blocks of each, and nobody else may write. */
export async function followsToB(sites: Sites, guest: Guest): Promise<void> {
  const { a, b } = sites;
  assert.deepEqual(await states(a, guest), ['fenced', 'fenced']);
  assert.deepEqual(await states(b, guest), ['relocating', 'relocating']);
  await writableOnlyAt(sites, guest, b);
}

/** The disks come to b completely, with all that the guest wrote in each of its lives, this last one included; a keeps nothing. */
export async function endsAtB(
  sites: Sites,
  guest: Guest,
  lives: readonly Map<string, DiskReport>[],
): Promise<void> {
  const { lab, a, b } = sites;
  await lab.setRate(undefined);
  await arrived(b, guest);
  await completionTold(sites, b, guest);
  assert.deepEqual(await wrongBytes(b, guest, ...lives, await guest.powerOff()), []);
  await emptied(a);
}
