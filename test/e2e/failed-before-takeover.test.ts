/**
 * Every way in which a migration can fail before the destination owns the disk (the rows of libvirt's hooks): the guest runs on where it
 * was, or can be started there again; the other host keeps no trace.
 *
 * Elsewhere: docs/safety.md has the list.
 */
import assert from 'node:assert/strict';
import { chmod, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import type { Guest } from '../lab/libvirt/guest.ts';
import { interrupted, logTells } from '../lab/sites/interrupted-migrations.ts';
import { atWork, nothingAt, runsOn } from '../lab/sites/outcome.ts';
import { announced, arrived, startedGuest } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';
import { waitFor } from '../lab/wait-for.ts';

/** Another administrator's hook, which fails where /run/lab/fails says. `xml`: what it prints for `migrate` is no domain. */
const OTHER_HOOK = `#!/bin/sh
[ "$2" = migrate ] && grep -qx xml /run/lab/fails && { cat >/dev/null; echo '<domain><name>other</name></domain>'; exit 0; }
cat >/dev/null
grep -qx "$2" /run/lab/fails && { echo "planted: $2 fails" >&2; exit 1; }
exit 0
`;

describe('a migration that fails before the takeover', function () {
  this.timeout(240_000);
  const { sites, begin, sure, it, story } = useSites({
    config: '[relocation]\nprepare-timeout = 5\n',
    prepare: async ({ b }) => {
      await mkdir(b.outside('/etc/libvirt/hooks/qemu.d'), { recursive: true });
      await writeFile(b.outside('/run/lab/fails'), '');
      await writeFile(b.outside('/etc/libvirt/hooks/qemu.d/other'), OTHER_HOOK);
      await chmod(b.outside('/etc/libvirt/hooks/qemu.d/other'), 0o755);
    },
  });
  let guest: Guest;

  begin(async () => {
    guest = await startedGuest(sites(), 'vm1', ['rewrite', 'write-only'], 16);
  });
  sure(() => atWork(sites(), guest, sites().a));

  /** Migrates in vain. @returns what virsh said */
  async function refused(): Promise<string> {
    const { a, b } = sites();
    return guest.migrate(a.host, b.host, '--live').then(
      () => assert.fail('vm1 was migrated'),
      (error: unknown) => (error as Error).message,
    );
  }

  for (const [where, said] of [
    ['prepare', /planted: prepare fails/],
    ['start', /planted: start fails/],
    ['started', /planted: started fails/],
    ['xml', /error: /],
  ] as const) {
    const what =
      where === 'xml' ? "another hook's XML is rejected at B" : `another hook fails in ${where} at B`;
    it(what, async () => {
      const { b } = sites();
      const fails = b.host.outside('/run/lab/fails');
      await writeFile(fails, `${where}\n`);
      assert.match(await refused(), said);
      await writeFile(fails, '');
      await runsOn(sites(), guest);
      // libvirt says nothing after the XML was rejected.
      const reason = where === 'xml' ? 'libvirt did not go on within 5 s' : 'libvirt gave the migration up';
      await logTells(b, new RegExp(`the move of vm1 is given up: ${reason}`));
    });
  }

  it("the source's gateway accepts and says nothing: the migrate hook says so in time", async () => {
    const { a, b } = sites();
    process.kill(a.gateway.pid, 'SIGSTOP');
    try {
      assert.match(
        await refused(),
        /xnbd: disk vm1-vd[ab]: a:10809 does not finish the NBD handshake within 10 s/,
      );
    } finally {
      process.kill(a.gateway.pid, 'SIGCONT');
    }
    await runsOn(sites(), guest);
    await logTells(b, /the move of vm1 is given up: disk vm1-vd[ab]: a:10809 does not finish/);
  });

  for (const which of ['a', 'b'] as const) {
    it(`libvirtd of ${which} is restarted midway`, async () => {
      const { host } = sites()[which];
      const said = await interrupted(sites(), guest, async () => {
        await host.stopLibvirtd('SIGKILL');
        await host.startLibvirtd();
      });
      assert.match(said, /error: /);
      await runsOn(sites(), guest);
      await logTells(sites().b, /the move of vm1 is given up: libvirt gave the migration up/);
    });
  }

  it("B's host is gone at once: the lease ends, and an administrator ends the job", async () => {
    const { lab, a, b } = sites();
    const said = await interrupted(sites(), guest, async () => {
      await lab.setCable(b.host, false);
      await guest.progress();
      for (const { export: disk } of guest.spec.disks) {
        const lent = async () => (await a.status(disk))?.state === 'serving';
        await waitFor(`the lease of ${disk} to end`, lent, 60_000);
      }
      // QEMU itself waits for as long as TCP does.
      await a.host.virsh('domjobabort', guest.name);
    });
    assert.match(said, /error: /);
    await guest.progress();
    await lab.setCable(b.host, true);
    await runsOn(sites(), guest);
  });

  story("A's QEMU is killed midway, and it is started again by hand", (step) => {
    step('the disks come back, and nothing is at B', async () => {
      const { a, b } = sites();
      const said = await interrupted(sites(), guest, async () =>
        process.kill(await a.host.qemuPid(guest.name), 'SIGKILL'),
      );
      assert.match(said, /error: /);
      await nothingAt(b);
      for (const { export: disk } of guest.spec.disks) {
        const free = async () => ((await a.status(disk))?.state ?? 'serving') === 'serving';
        await waitFor(`${disk} to be a's again`, free);
        // B's proxy may or may not have taken it over before it heard that the migration was over.
        await logTells(a, new RegExp(`disk ${disk}: (lent|fenced), now serving`));
      }
      assert.deepEqual(guest.errors, []);
      assert.equal(await a.host.virsh('domstate', guest.name), 'shut off');
    });

    step('an image is missing at the start: virsh says which', async () => {
      const { a } = sites();
      const image = a.image('vm1-vdb');
      // Lent a moment ago they would stay for a while, killed or not.
      for (const pid of (await a.processes()).keys()) process.kill(pid, 'SIGTERM');
      await waitFor('the end of the exports', async () => (await a.processes()).size === 0);
      await rename(image, `${image}.away`);
      await assert.rejects(a.host.virsh('start', guest.name), /xnbd: .*vm1-vdb\.img/);
      assert.equal((await a.processes()).size, 0);
      await rename(`${image}.away`, image);
    });

    step('the next one succeeds', async () => {
      const { a, b } = sites();
      // Started anew it knows nothing of what it wrote before.
      const before = await a.host.virsh('dumpxml', '--inactive', guest.name);
      await writeFile(
        a.host.outside('/run/lab/again.xml'),
        before.replaceAll(/(xnbd\.vd\w=[\w-]+:[0-9a-f]+):pattern/g, '$1'),
      );
      await a.host.virsh('define', '/run/lab/again.xml');
      await rm(a.host.outside('/run/lab/again.xml'));
      await guest.start(a.host);
      await guest.progress();
      await announced(a, guest);
      await guest.migrate(a.host, b.host, '--live', '--persistent', '--undefinesource');
      await guest.progress();
      await arrived(b, guest);
      await guest.stop();
      assert.deepEqual(guest.errors, []);
      await waitFor('the end of the exports at a', async () => (await a.processes()).size === 0);
    });
  });
});
